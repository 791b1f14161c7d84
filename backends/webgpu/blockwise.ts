/**
 * Block-wise 8-bit storage on WebGPU, and Adam on moments kept in it: see `UpdateKernels` of `core/backend.ts` for the
 * definition, `blockwise_source.ts` for the texts. One pass over memory each, and no f32 copy of a moment.
 *
 * The code-books are one small buffer that stays as long as the device.
 */
import type { Blockwise, BlockwiseOptions, Operand, UpdateKernels } from "../../core/backend.ts";
import { codebook, codeLimits, type SlotKind } from "../../core/codebook.ts";
import { contiguousStrides, sizeOf } from "../../core/shape.ts";
import { adamParams } from "./adam_params.ts";
import { adamSource, decodeSource, encodeSource } from "./blockwise_source.ts";
import { TABLE_AT, TABLE_WORDS, type Teams } from "./blockwise_text.ts";
import { flatGrid, type Gpu } from "./gpu.ts";
import { type Team, usesSubgroups } from "./kernels/groups.ts";

/** Lanes of a workgroup. */
const GROUP_SIZE = 256;
/** Lanes share out blocks that are multiples of this. */
const SMALLEST_BLOCK = 256;
/** More would not fit the registers of a lane. */
const LARGEST_BLOCK = 4096;

type BlockwiseKernels = Required<Pick<UpdateKernels, "quantizeBlockwise" | "dequantizeBlockwise" | "adamBlockwise">>;

/** The block-wise kernels over `gpu`. */
export function webgpuBlockwise(gpu: Gpu): BlockwiseKernels {
  let held: Operand | undefined;
  const tables = () => held ??= writeTables(gpu);
  return {
    quantizeBlockwise(x, to, kind, options) {
      const size = sizeOf(x.shape);
      if (size === 0) return;
      const teams = teamsOf(gpu, options.blockSize, "quantize");
      const isVector = areVectors(size, [x]);
      gpu.run({
        key: `quantize blockwise ${nameOf(teams, isVector)}`,
        build: () => encodeSource(teams, isVector),
        operands: [x, to.codes, to.absmax, tables()],
        params: {
          ...extentOf(size),
          at_x: x.offset,
          ...placeOf("to", to),
          table: TABLE_AT[kind].limits,
          ...roundingOf(kind, options),
        },
        grid: gridOf(size, options.blockSize, teams),
        bytes: 4 * size + storedBytes(size, options.blockSize),
      });
    },
    dequantizeBlockwise(from, out, kind, blockSize) {
      const size = sizeOf(out.shape);
      if (size === 0) return;
      checkBlock(blockSize, "dequantize");
      const isVector = areVectors(size, [out]);
      gpu.run({
        key: `dequantize blockwise${isVector ? " vec4" : ""}`,
        build: () => decodeSource(GROUP_SIZE, isVector),
        operands: [from.codes, from.absmax, tables(), out],
        params: {
          ...extentOf(size),
          ...placeOf("codes", from),
          at_out: out.offset,
          table: TABLE_AT[kind].values,
          block_words: blockSize / 4,
        },
        grid: flatGrid(Math.ceil(size / 4 / GROUP_SIZE)),
        bytes: 4 * size + storedBytes(size, blockSize),
      });
    },
    adamBlockwise({ grad, mu, nu, factor, param, out }, update, parameter) {
      const size = sizeOf(grad.shape);
      if (size === 0) return;
      if (param && !parameter) {
        throw new TypeError("Cannot update in adamBlockwise(): a param needs its learning rate and decay");
      }
      const { blockSize } = update;
      const teams = teamsOf(gpu, blockSize, "update");
      const moved = [grad, ...(param ? [param] : []), ...(out ? [out] : [])];
      const isVector = areVectors(size, moved);
      const variant = { teams, isVector, hasFactor: !!factor, hasParam: !!param, hasOut: !!out };
      gpu.run({
        key: `adam blockwise ${nameOf(teams, isVector)}${factor ? " factor" : ""}${param ? " param" : ""}${
          out ? " out" : ""
        }`,
        build: () => adamSource(variant),
        operands: [
          ...[grad, mu.codes, mu.absmax, nu.codes, nu.absmax, tables()],
          ...(factor ? [factor] : []),
          ...(param ? [param] : []),
          ...(out ? [out] : []),
        ],
        params: {
          ...extentOf(size),
          at_grad: grad.offset,
          ...placeOf("mu", mu),
          ...placeOf("nu", nu),
          at_factor: factor?.offset ?? 0,
          at_param: param?.offset ?? 0,
          at_out: out?.offset ?? 0,
          flips: roundingOf("signed", update).flips,
          least: roundingOf("nonnegative", update).least,
          ...adamParams(update, parameter),
        },
        grid: gridOf(size, blockSize, teams),
        bytes: 4 * size * (1 + (param ? 2 : 0) + (out ? 1 : 0)) + 4 * storedBytes(size, blockSize),
      });
    },
  };
}

/**
 * A lane has at least a word, a workgroup up to four blocks: the largest power of two of lanes that shares a block out
 * evenly.
 */
function teamsOf(gpu: Gpu, blockSize: number, verb: string): Teams {
  checkBlock(blockSize, verb);
  const words = blockSize / 4;
  let lanes = SMALLEST_BLOCK / 4;
  while (lanes < GROUP_SIZE && words % (2 * lanes) === 0) lanes *= 2;
  const team: Team = { size: GROUP_SIZE, lanes };
  return { team, words: words / lanes, bySubgroups: usesSubgroups(gpu, team) };
}

/** @throws RangeError for a block that the lanes cannot share out */
function checkBlock(blockSize: number, verb: string): void {
  if (blockSize > 0 && blockSize % SMALLEST_BLOCK === 0 && blockSize <= LARGEST_BLOCK) return;
  throw new RangeError(
    `Cannot ${verb} in blocks on webgpu: a block has a multiple of ${SMALLEST_BLOCK} elements, ` +
      `at most ${LARGEST_BLOCK}: got ${blockSize}`,
  );
}

function nameOf({ team: { lanes }, words, bySubgroups }: Teams, isVector: boolean): string {
  return `${lanes}x${words}${bySubgroups ? " subgroups" : ""}${isVector ? " vec4" : ""}`;
}

function areVectors(size: number, operands: readonly Operand[]): boolean {
  return size % 4 === 0 && operands.every(({ offset }) => offset % 4 === 0);
}

function gridOf(size: number, blockSize: number, { team: { size: lanes, lanes: each } }: Teams): [number, number] {
  return flatGrid(Math.ceil(Math.ceil(size / blockSize) / (lanes / each)));
}

function extentOf(size: number): { size: number; words: number } {
  return { size, words: Math.ceil(size / 4) };
}

/** Bytes of codes and largest magnitudes. */
function storedBytes(size: number, blockSize: number): number {
  return size + 4 * Math.ceil(size / blockSize);
}

/** Parameters of stored operands. @throws RangeError where codes begin inside a word */
function placeOf(name: string, { codes, absmax }: Blockwise): Record<string, number> {
  if (codes.offset % 4 !== 0) {
    throw new RangeError(`Cannot use codes on webgpu: they begin with a word: got offset ${codes.offset}`);
  }
  return { [`at_${name}`]: codes.offset, [`at_${name}_absmax`]: absmax.offset };
}

/** `BlockwiseOptions.rounding` as `encode` takes it. */
function roundingOf(kind: SlotKind, { rounding }: BlockwiseOptions): { flips: number; least: number } {
  return {
    flips: kind === "signed" && rounding === "stock" ? 1 : 0,
    least: kind === "nonnegative" && rounding === "safe" ? 1 : 0,
  };
}

/** Code-books and limits in memory that lives as long as the device. */
function writeTables({ pool, recorder }: Gpu): Operand {
  const data = new Float32Array(TABLE_WORDS);
  for (const kind of ["signed", "nonnegative"] as const) {
    data.set(codebook(kind), TABLE_AT[kind].values);
    data.set(codeLimits(kind), TABLE_AT[kind].limits);
  }
  const buffer = pool.permanent(data.byteLength, "code-books");
  recorder.write(buffer.block, 0, new Uint8Array(data.buffer));
  const shape = [TABLE_WORDS];
  return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
}
