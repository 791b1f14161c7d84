/** A few parameters of any shape whose gradients a test hands over itself. Test support: no module imports this. */
import { type Backend, cast, foldIn, fromArray, type HostArray, keyOf, normal, Params } from "../../core/mod.ts";
import { type Shape, sizeOf, Tensor } from "../../core/mod.ts";
import { Optimizer, type OptimizerOptions, type Routing, type Rule, type State } from "../mod.ts";
import { load, type StoredSnapshot } from "./snapshots.ts";

/** Shapes by parameter name. */
export type Shapes = Readonly<Record<string, Shape>>;

/** Values by parameter name. */
export type Values = Readonly<Record<string, ArrayLike<number>>>;

/** Normal numbers of a shape that depend on the key alone. */
export function normals(shape: Shape, ...key: (string | number)[]): Float32Array<ArrayBuffer> {
  return normal(foldIn(keyOf(17), ...key), sizeOf(shape));
}

/** Parameters, their optimizer, and steps from given gradients. */
export class GradientBench implements Disposable {
  readonly params: Params;
  readonly optimizer: Optimizer;

  constructor(
    readonly backend: Backend,
    readonly shapes: Shapes,
    rule: Rule | Routing,
    { dtype = "f32", start, ...options }: OptimizerOptions & { dtype?: "f32" | "f64" | "bf16"; start?: Values } = {},
  ) {
    this.params = new Params(backend);
    for (const [name, shape] of Object.entries(shapes)) {
      const values = Float64Array.from(start?.[name] ?? normals(shape, name));
      using whole = fromArray(backend, values, shape, dtype === "f64" ? "f64" : "f32");
      this.params.set(name, dtype === "bf16" ? cast(whole, "bf16") : whole.retained());
    }
    this.optimizer = new Optimizer(this.params, rule, options);
  }

  /** Hands over one gradient of each parameter named: f32 also where that is bf16. */
  stage(gradients: Values): void {
    for (const [name, values] of Object.entries(gradients)) {
      const { dtype } = this.params.get(name);
      const values64 = Float64Array.from(values);
      using gradient = fromArray(this.backend, values64, this.shapes[name], dtype === "f64" ? "f64" : "f32");
      this.optimizer.stage(name, gradient);
    }
  }

  /** A whole step of one micro-batch. */
  async step(gradients: Values): Promise<void> {
    this.stage(gradients);
    if (this.optimizer.refreshDue) await this.optimizer.refresh();
    this.optimizer.commit();
  }

  /** Normal gradients of every parameter. */
  gradients(...key: (string | number)[]): Record<string, Float32Array<ArrayBuffer>> {
    return Object.fromEntries(
      Object.entries(this.shapes).map(([name, shape]) => [name, normals(shape, name, "gradient", ...key)]),
    );
  }

  /** The state of a parameter's rule; of the first rule, where it is a chain. */
  state(name: string): State {
    const { state } = this.optimizer.snapshot().leaves.get(name)!;
    const head = state[0];
    return head !== null && typeof head === "object" && !(head instanceof Tensor) ? head : state;
  }

  /** A tensor of that state, by its path, on the host. */
  async read(name: string, path: string): Promise<HostArray> {
    let at: State[string] = this.state(name);
    for (const part of path.split("/")) at = (at as State)[part];
    return await (at as Tensor).read();
  }

  async weights(): Promise<Record<string, HostArray>> {
    const out: Record<string, HostArray> = {};
    for (const [name, weight] of this.params.entries()) out[name] = await weight.read();
    return out;
  }

  /** Takes over another bench's weights and what it stored. */
  async resume(from: GradientBench, stored: StoredSnapshot): Promise<void> {
    for (const [name, weight] of from.params.entries()) this.params.get(name).write(await weight.read());
    load(this.backend, stored, this.optimizer);
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
    this.params.dispose();
  }
}
