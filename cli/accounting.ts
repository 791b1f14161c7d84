/**
 * Memory of weights and optimizer states from shapes alone, by two rules: the one by which the GaLore paper's tables can
 * be computed, and the bytes of every tensor that exists. Pure functions of a model's weights; nothing is allocated.
 *
 * The paper (Zhao et al. 2024, tables 2 and 6; the rule is not stated there and was found from its figures): two bytes an
 * element, decimal units. N is the number of weights, N_LR the sum of r (rows + columns) over the projected matrices, and
 * everything else in full. GaLore's states are three quarters of LoRA's, the ratio (mr + 2nr) / (2mr + 2nr) of a square
 * matrix, applied to all of N_LR, embeddings included. It refuses to correct that: the other rule does.
 *
 * Fine-tuning (table 4) follows the same rule with two differences: what has a low rank counts four bytes an element, and
 * nothing is counted for what GaLore and LoRA train in full beside it (`paperFinetuneMemory`).
 */
import { isHalf, type Shape, sizeOf } from "../core/mod.ts";
import { galoreShapes, type ProjType } from "../optimizers/mod.ts";

/** A weight, and whether it is one of those that a low-rank method works on. */
export interface WeightShape {
  readonly shape: Shape;
  readonly isProjected: boolean;
}

/** A model as accounting sees it. */
export type ModelShapes = ReadonlyMap<string, WeightShape>;

/** Methods of the paper's tables. */
export type PaperMethod = "full" | "full_8bit" | "galore" | "galore_8bit" | "low_rank" | "lora";

/** Bytes of the two things that the paper's tables count. */
export interface Accounted {
  readonly weights: number;
  readonly states: number;
}

/** Shapes by name, with the projected ones marked. */
export function modelShapes(weights: ReadonlyMap<string, { readonly shape: Shape }>, projected: RegExp): ModelShapes {
  return new Map([...weights].map(([name, { shape }]) => [name, { shape, isProjected: projected.test(name) }]));
}

/** Elements that the paper's rules count, for a rank. */
export interface ElementCounts {
  /** N: all weights. */
  readonly all: number;
  /** N_LR: r (rows + columns) of the projected matrices, and everything else in full. */
  readonly lowRank: number;
  /** The first part of N_LR: elements of factors in place of the projected matrices. */
  readonly factors: number;
}

/** Counts elements of a model. */
export function elementCounts(model: ModelShapes, rank: number): ElementCounts {
  let [all, whole, factors] = [0, 0, 0];
  for (const { shape, isProjected } of model.values()) {
    all += sizeOf(shape);
    if (isProjected) factors += rankOf(shape, rank) * (shape[0] + shape[1]);
    else whole += sizeOf(shape);
  }
  return { all, lowRank: whole + factors, factors };
}

function rankOf(shape: Shape, rank: number): number {
  return Math.min(rank, ...shape);
}

/** Weights and states as the paper counts them. `galore_8bit`: each element of states and bases in one byte. */
export function paperMemory(model: ModelShapes, method: PaperMethod, rank: number): Accounted {
  const { all, lowRank } = elementCounts(model, rank);
  switch (method) {
    case "full":
      return { weights: 2 * all, states: 4 * all };
    case "full_8bit":
      return { weights: 2 * all, states: 2 * all };
    case "galore":
      return { weights: 2 * all, states: 3 * lowRank };
    case "galore_8bit": {
      const { moments, projectors } = galoreElements(model, { rank, projType: "std", moments: 2 });
      return { weights: 2 * all, states: moments + projectors };
    }
    case "low_rank":
      return { weights: 2 * lowRank, states: 4 * lowRank };
    case "lora":
      return { weights: 2 * (all + lowRank), states: 4 * lowRank };
  }
}

/** Methods of the paper's table of fine-tuning. */
export type PaperFinetuneMethod = "full" | "galore" | "lora";

/**
 * Weights and states of fine-tuning as the paper's table 4 counts them. `full`: two bytes a weight and two for each of its
 * two moments, 6 N. `lora`: 2 N for the model, and f32 for what is trained: four bytes an element of the factors and
 * four for each of their moments, 12 r (rows + columns). `galore`: 2 N, and three quarters of LoRA's moments,
 * 6 r (rows + columns). GaLore's moments of embeddings, norms and the head, and LoRA's head, are left out.
 */
export function paperFinetuneMemory(model: ModelShapes, method: PaperFinetuneMethod, rank: number): Accounted {
  const { all, factors } = elementCounts(model, rank);
  switch (method) {
    case "full":
      return paperMemory(model, "full", rank);
    case "galore":
      return { weights: 2 * all, states: 6 * factors };
    case "lora":
      return { weights: 2 * all + 4 * factors, states: 8 * factors };
  }
}

/** A row of the paper's table 4: RoBERTa-base on GLUE. */
export interface PaperFinetuneRow {
  readonly method: PaperFinetuneMethod;
  /** Left out where nothing has a rank. */
  readonly rank?: number;
  /** As printed, in bytes. */
  readonly printed: number;
}

/** The memory column of the paper's table 4. */
export const PAPER_FINETUNE: readonly PaperFinetuneRow[] = [
  { method: "full", printed: 747e6 },
  { method: "galore", rank: 4, printed: 253e6 },
  { method: "lora", rank: 4, printed: 257e6 },
  { method: "galore", rank: 8, printed: 257e6 },
  { method: "lora", rank: 8, printed: 264e6 },
];

/** Elements of moments of all weights, and of the bases. */
function galoreElements(
  model: ModelShapes,
  { rank, projType, moments: slots }: { readonly rank: number; readonly projType: ProjType; readonly moments: number },
): { readonly moments: number; readonly projectors: number } {
  let [moments, projectors] = [0, 0];
  for (const { shape, isProjected } of model.values()) {
    if (!isProjected) {
      moments += slots * sizeOf(shape);
      continue;
    }
    const { projected, bases } = galoreShapes(shape, rank, projType);
    moments += slots * sizeOf(projected);
    for (const basis of bases) projectors += sizeOf(basis.shape);
  }
  return { moments, projectors };
}

/** How the tensors of a run are stored. */
export interface StorageOptions {
  readonly weights: "f32" | "bf16";
  /** Moments; `8bit`: a byte an element and an f32 a block, f32 for tensors of fewer than `leastStored` elements. */
  readonly moments: "f32" | "bf16" | "8bit";
  /** Tensors of moments an element: 2 for Adam, 1 for momentum, 0 for plain SGD. Default 2. */
  readonly slots?: number;
  /** Elements that share an absmax. Default 256. */
  readonly block?: number;
  /** Default 4096. */
  readonly leastStored?: number;
  /** Left out: nothing is projected. */
  readonly galore?: {
    readonly rank: number;
    readonly projType?: ProjType;
    readonly projector: ProjectorStorage;
  };
  /** Whether 16-bit weights have an f32 copy. */
  readonly master?: boolean;
}

/** How a basis is stored; integers come in whole groups of 256, with a scale and a zero point of 4 bytes each. */
export type ProjectorStorage = "f32" | "bf16" | "int8" | "int4";

/** Bytes by kind. */
export interface HonestBytes extends Accounted {
  readonly moments: number;
  readonly projectors: number;
  readonly masters: number;
}

/** The bytes of every tensor that a run keeps between steps. */
export function honestMemory(model: ModelShapes, options: StorageOptions): HonestBytes {
  const { galore, slots = 2, master = false } = options;
  const bytes = { weights: 0, moments: 0, projectors: 0, masters: 0 };
  for (const { shape, isProjected } of model.values()) {
    const size = sizeOf(shape);
    bytes.weights += wordBytes((isHalf(options.weights) ? 2 : 4) * size);
    if (master && isHalf(options.weights)) bytes.masters += 4 * size;
    const low = galore && isProjected ? galoreShapes(shape, galore.rank, galore.projType ?? "std") : undefined;
    bytes.moments += slots * momentBytes(low ? sizeOf(low.projected) : size, options);
    for (const basis of low?.bases ?? []) bytes.projectors += projectorBytes(sizeOf(basis.shape), galore!.projector);
  }
  return { ...bytes, states: bytes.moments + bytes.projectors + bytes.masters };
}

function momentBytes(size: number, { moments, block = 256, leastStored = 4096 }: StorageOptions): number {
  if (moments === "bf16") return wordBytes(2 * size);
  if (moments === "f32" || size < leastStored) return 4 * size;
  return wordBytes(size) + 4 * Math.ceil(size / block);
}

function projectorBytes(size: number, storage: ProjectorStorage): number {
  const groups = Math.ceil(size / 256);
  switch (storage) {
    case "f32":
      return 4 * size;
    case "bf16":
      return wordBytes(2 * size);
    case "int8":
      return (256 + 8) * groups;
    case "int4":
      return (128 + 8) * groups;
  }
}

/** Tensors end at whole words. */
function wordBytes(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}
