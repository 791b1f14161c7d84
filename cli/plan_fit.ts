/**
 * `plan --fit SIZE`: set-ups of a run that fit into a budget, the most capable first. It chooses what was not asked for: the
 * weights' type, optimizer, rank, batch, per-layer updates, checkpointed activations.
 *
 * The search looks at models of two and three layers, whose plans take milliseconds, and assumes that each further layer
 * adds the same; what it proposes is planned as it is, and a proposal that proves too large gives up batch until it fits.
 */
import { type MemoryPlan, planMemory, type PlanRequest } from "./memory_plan.ts";
import type { ModelConfig } from "./objective.ts";
import { isProjecting } from "./optimizer_family.ts";
import type { OptimizerName, Run } from "./options.ts";

/** What a search may choose, where it was not asked for. */
export type FitChoice = Pick<
  Run,
  "dtype" | "optimizer" | "batch" | "perLayer" | "clip" | "checkpointActivations" | "rank"
>;

/** A set-up that fits. */
export interface Fit {
  readonly choice: FitChoice;
  readonly plan: MemoryPlan;
}

/** What is searched. */
export interface FitRequest {
  readonly config: ModelConfig;
  readonly request: PlanRequest;
  /** Names of the options that the user gave: they stay as they are. */
  readonly given: ReadonlySet<string>;
  readonly budget: number;
}

interface Search extends FitRequest {
  /** Estimates so far, by choice. */
  readonly estimates: Map<string, Promise<number>>;
}

/** What fits, or what the smallest set-up would need. */
export interface FitResult {
  readonly fits: readonly Fit[];
  readonly smallest: Fit;
}

/** Sequences to a batch at most; more are a matter of `--grad-accum`. */
const LARGEST_BATCH = 512;
/** Optimizers that are tried, by preference among equals. */
const OPTIMIZERS_TRIED: readonly OptimizerName[] = ["galore_adamw", "galore_adamw_8bit", "adamw", "adamw_8bit"];
const LAYERS_PLANNED = [2, 3];
const MOST_FITS = 6;

/** Finds set-ups that fit, largest batch first, then highest rank, then the least that is given up for it. */
export async function findFits(request: FitRequest): Promise<FitResult> {
  const search: Search = { ...request, estimates: new Map() };
  const found: Candidate[] = [];
  let least: { choice: FitChoice; bytes: number } | undefined;
  for (const family of families(search)) {
    const smallest = { ...family.choice, batch: family.batches[0], rank: family.ranks[0] };
    const bytes = await estimate(search, smallest);
    if (!least || bytes < least.bytes) least = { choice: smallest, bytes };
    if (bytes > search.budget) continue;
    for (const choice of await bestOf(search, family)) found.push({ choice, cost: family.cost });
  }
  const fits: Fit[] = [];
  for (const { choice } of found.sort(byPreference).filter(isUseful)) {
    if (fits.length === MOST_FITS) break;
    const fit = await shrunkToFit(search, choice);
    if (fit) fits.push(fit);
  }
  fits.sort((a, b) => b.choice.batch - a.choice.batch); // stable: some had to give up batch
  const smallest = { choice: least!.choice, plan: await planChoice(search, least!.choice) };
  return { fits, smallest };
}

interface Candidate {
  readonly choice: FitChoice;
  readonly cost: number;
}

/** The largest batch with the highest rank beside it, and the highest rank with the largest batch beside it. */
async function bestOf(search: Search, { choice, batches, ranks }: Family): Promise<FitChoice[]> {
  const most = async (...order: readonly ("batch" | "rank")[]) => {
    let best: FitChoice = { ...choice, batch: batches[0], rank: ranks[0] };
    for (const key of order) {
      const values: readonly (number | undefined)[] = key === "batch" ? batches : ranks;
      const value = await largest(values, (value) => fitsRoughly(search, { ...best, [key]: value } as FitChoice));
      best = { ...best, [key]: value } as FitChoice;
    }
    return best;
  };
  const wide = await most("batch", "rank");
  return ranks.length === 1 ? [wide] : [wide, await most("rank", "batch")];
}

function byPreference(a: Candidate, b: Candidate): number {
  return b.choice.batch - a.choice.batch || (b.choice.rank ?? Infinity) - (a.choice.rank ?? Infinity) ||
    a.cost - b.cost;
}

/** Whether no other candidate of the same optimizer and type has as much and gives up less, or is the same. */
function isUseful({ choice, cost }: Candidate, index: number, all: readonly Candidate[]): boolean {
  return !all.some((other, at) =>
    other.choice.optimizer === choice.optimizer && other.choice.dtype === choice.dtype &&
    other.choice.batch >= choice.batch && (other.choice.rank ?? 0) >= (choice.rank ?? 0) &&
    (other.cost < cost || other.cost === cost && at < index)
  );
}

/** Set-ups that differ only in batch and rank. */
interface Family {
  readonly choice: Omit<FitChoice, "batch" | "rank">;
  readonly batches: readonly number[];
  /** Ascending; one entry, undefined, where nothing is projected. */
  readonly ranks: readonly (number | undefined)[];
  /** What is given up, for the order among equals. */
  readonly cost: number;
}

function families({ config, request, given }: FitRequest): Family[] {
  const choose = <T>(name: string, asked: T, all: readonly T[]) => given.has(name) ? [asked] : all;
  const dtypes = choose(
    "dtype",
    request.dtype,
    request.policy === "webgpu" ? ["f32", "bf16"] as const : ["f32"] as const,
  );
  const optimizers = choose("optimizer", request.optimizer, OPTIMIZERS_TRIED);
  const batches = choose("batch", request.batch, batchSizes());
  const ranks = [8, 4, 2].map((part) => Math.max(1, Math.floor(config.hidden_size / part)));
  const checkpointing = choose("checkpointActivations", request.checkpointActivations, [false, true]);
  const perLayers = choose("perLayer", request.perLayer, [false, true]);
  return dtypes.flatMap((dtype, a) =>
    optimizers.flatMap((optimizer, b) =>
      perLayers.flatMap((perLayer, c) =>
        checkpointing.map((checkpointActivations, d): Family => ({
          // a norm to clip to would hold every gradient until it is known
          choice: { dtype, optimizer, perLayer, checkpointActivations, clip: clipOf(perLayer, request, given) },
          batches,
          ranks: isProjecting(optimizer) ? choose("rank", request.rank, ranks) : [undefined],
          cost: a + 2 * b + c + 3 * d,
        }))
      )
    )
  );
}

function clipOf(perLayer: boolean, { clip }: PlanRequest, given: ReadonlySet<string>): number {
  return perLayer && !given.has("clip") ? 0 : clip;
}

/** Powers of two, and one and a half times each. */
function batchSizes(): number[] {
  const sizes = [1];
  for (let size = 2; size <= LARGEST_BATCH; size *= 2) sizes.push(size, size * 3 / 2);
  return sizes.filter((size) => size <= LARGEST_BATCH);
}

/** The last of ascending values that fits; the first is known to. */
async function largest<T>(values: readonly T[], fits: (value: T) => Promise<boolean>): Promise<T> {
  let [low, high] = [0, values.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (await fits(values[middle])) low = middle;
    else high = middle - 1;
  }
  return values[low];
}

async function fitsRoughly(search: Search, choice: FitChoice): Promise<boolean> {
  return await estimate(search, choice) <= search.budget;
}

/** Bytes that a set-up needs, from models of a few layers. */
function estimate(search: Search, choice: FitChoice): Promise<number> {
  const key = JSON.stringify(choice);
  const known = search.estimates.get(key);
  if (known) return known;
  const bytes = extrapolate(search, choice);
  search.estimates.set(key, bytes);
  return bytes;
}

async function extrapolate(search: Search, choice: FitChoice): Promise<number> {
  const { num_hidden_layers: layers } = search.config;
  const [few, more] = LAYERS_PLANNED;
  if (layers <= more) return (await planChoice(search, choice)).heldBytes;
  const low = await planChoice(search, choice, few);
  const high = await planChoice(search, choice, more);
  return low.heldBytes + (layers - few) * (high.heldBytes - low.heldBytes);
}

function planChoice({ config, request }: FitRequest, choice: FitChoice, layers?: number): Promise<MemoryPlan> {
  return planMemory({ ...config, num_hidden_layers: layers ?? config.num_hidden_layers }, { ...request, ...choice });
}

/** The set-up as planned in full, with less batch where it proves too large. */
async function shrunkToFit(search: Search, choice: FitChoice): Promise<Fit | undefined> {
  const batches = search.given.has("batch") ? [choice.batch] : batchSizes().filter((size) => size <= choice.batch);
  for (const batch of batches.reverse()) {
    const plan = await planChoice(search, { ...choice, batch });
    if (plan.heldBytes <= search.budget) return { choice: { ...choice, batch }, plan };
  }
  return undefined;
}
