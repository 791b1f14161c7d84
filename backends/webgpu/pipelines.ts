/**
 * Compiled kernels and bind groups, each made once. A kernel is known by its key: its name and every constant that its
 * text depends on. Parameters that change from call to call travel in one uniform buffer, at a dynamic offset, so that a
 * bind group depends on buffers alone and the pool's reuse of buffers makes it recur.
 */
import { COMPUTE } from "./constants.ts";
import type { Faults } from "./faults.ts";
import type { Block } from "./pool.ts";

/** A scalar that travels in the uniform buffer. */
export type ParamType = "u32" | "i32" | "f32";

/** A storage buffer of a kernel. */
export interface Binding {
  readonly name: string;
  /** WGSL type, such as `array<f32>`. */
  readonly type: string;
  readonly access: "read" | "read_write";
}

/** A kernel's text and what it expects. */
export interface KernelSource {
  readonly bindings: readonly Binding[];
  /** In this order in the uniform buffer; WGSL sees `params.name`. At most 64. */
  readonly params: Readonly<Record<string, ParamType>>;
  /** Module scope: functions and `@compute fn main`. */
  readonly code: string;
  /** True where the code uses subgroup operations. */
  readonly subgroups?: boolean;
}

/** A kernel ready to run. */
export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly layoutId: string;
  readonly params: readonly (readonly [string, ParamType])[];
  readonly writes: readonly boolean[];
}

/** Bytes of the uniform buffer that one dispatch sees. */
export const PARAMS_BYTES = 256;

/** Bind groups kept; beyond, the cache starts anew. */
const MAX_GROUPS = 16384;

/** The caches of one device. */
export class Pipelines {
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #subgroupHeader: string | undefined;
  readonly #uniformLayout: GPUBindGroupLayout;
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #groupsOfBlock = new Map<number, Set<string>>();
  /** Bind groups created so far. */
  groupsCreated = 0;

  constructor(device: GPUDevice, faults: Faults, subgroupHeader: string | undefined) {
    this.#device = device;
    this.#faults = faults;
    this.#subgroupHeader = subgroupHeader;
    this.#uniformLayout = device.createBindGroupLayout({
      entries: [{
        binding: 0,
        visibility: COMPUTE,
        buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: PARAMS_BYTES },
      }],
    });
  }

  /** Kernels compiled so far. */
  get compiled(): number {
    return this.#pipelines.size;
  }

  /** The group of the uniform buffer. */
  uniformGroup(buffer: GPUBuffer): GPUBindGroup {
    return this.#device.createBindGroup({
      layout: this.#uniformLayout,
      entries: [{ binding: 0, resource: { buffer, size: PARAMS_BYTES } }],
    });
  }

  /** The kernel of a key, compiled from `build()` the first time. */
  get(key: string, build: () => KernelSource): Pipeline {
    let pipeline = this.#pipelines.get(key);
    if (!pipeline) this.#pipelines.set(key, pipeline = this.#compile(key, build()));
    return pipeline;
  }

  #compile(key: string, source: KernelSource): Pipeline {
    const layoutId = source.bindings.map(({ access }) => access === "read" ? "r" : "w").join("");
    const layout = this.#layout(layoutId);
    const code = this.#text(source);
    const pipeline = this.#faults.scoped(
      this.#device,
      `compile kernel "${key}"`,
      () =>
        this.#device.createComputePipeline({
          label: key,
          layout: this.#device.createPipelineLayout({ bindGroupLayouts: [this.#uniformLayout, layout] }),
          compute: { module: this.#device.createShaderModule({ label: key, code }), entryPoint: "main" },
        }),
    );
    const writes = source.bindings.map(({ access }) => access === "read_write");
    return { pipeline, layout, layoutId, params: Object.entries(source.params), writes };
  }

  #text({ bindings, params, code, subgroups }: KernelSource): string {
    const fields = Object.entries(params).map(([name, type]) => `  ${name}: ${type},`);
    if (fields.length > PARAMS_BYTES / 4) throw new RangeError(`Cannot pass ${fields.length} parameters to a kernel`);
    return [
      ...(subgroups ? [this.#subgroupHeader ?? ""] : []),
      "struct Params {",
      ...(fields.length > 0 ? fields : ["  unused: u32,"]),
      "}",
      "@group(0) @binding(0) var<uniform> params: Params;",
      ...bindings.map(({ name, type, access }, i) =>
        `@group(1) @binding(${i}) var<storage, ${access}> ${name}: ${type};`
      ),
      code,
    ].join("\n");
  }

  #layout(id: string): GPUBindGroupLayout {
    let layout = this.#layouts.get(id);
    if (!layout) {
      const entries = [...id].map((access, binding): GPUBindGroupLayoutEntry => ({
        binding,
        visibility: COMPUTE,
        buffer: { type: access === "r" ? "read-only-storage" : "storage" },
      }));
      this.#layouts.set(id, layout = this.#device.createBindGroupLayout({ entries }));
    }
    return layout;
  }

  /** The group that binds whole `blocks` in order. */
  group({ layout, layoutId }: Pipeline, blocks: readonly Block[]): GPUBindGroup {
    let key = layoutId;
    for (const { id } of blocks) key += `,${id}`;
    const known = this.#groups.get(key);
    if (known) return known;
    if (this.#groups.size >= MAX_GROUPS) this.#forgetAll();
    const entries = blocks.map(({ buffer }, binding) => ({ binding, resource: { buffer } }));
    const group = this.#device.createBindGroup({ layout, entries });
    this.groupsCreated++;
    this.#groups.set(key, group);
    for (const { id } of blocks) {
      const keys = this.#groupsOfBlock.get(id);
      if (keys) keys.add(key);
      else this.#groupsOfBlock.set(id, new Set([key]));
    }
    return group;
  }

  /** Drops the groups of a block that is about to be destroyed. */
  forget({ id }: Block): void {
    for (const key of this.#groupsOfBlock.get(id) ?? []) this.#groups.delete(key);
    this.#groupsOfBlock.delete(id);
  }

  #forgetAll(): void {
    this.#groups.clear();
    this.#groupsOfBlock.clear();
  }
}
