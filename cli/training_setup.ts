/** What a training run is made of, opened and printed: device, data, model, weights, optimizer. */
import { formatBytes, isHalf, OutOfMemoryError, type Params, type ParamsView } from "../core/mod.ts";
import type { Tokenizer } from "../data/mod.ts";
import { type FolderWriter, loraMergedWeights } from "../models/mod.ts";
import { Optimizer } from "../optimizers/mod.ts";
import { saveModel } from "./checkpoint.ts";
import { chooseTokenizer, type DataSource, DEFAULT_TEXT, openData } from "./data_source.ts";
import { type Device, largestTensorOf, openDevice } from "./device.ts";
import { exists } from "./files.ts";
import { formatTable, type Output } from "./log.ts";
import { planMemory, planRequest, stateBytesByName } from "./memory_plan.ts";
import { checkMethod, type Method, resolveMethod } from "./method.ts";
import { isMaskedModel, makeParams, type ModelSource, resolveModel } from "./model_source.ts";
import { isMasked, makeObjective, type Objective, rowLength } from "./objective.ts";
import { chooseOptimizer, driverOptions, type OptimizerChoice, parameterTable } from "./optimizer_choice.ts";
import { resolveBasis } from "./optimizer_family.ts";
import type { OptimizerOptions, Run } from "./options.ts";
import { type ReloraParts, type Restarts, restartsOf, saveRelora, splitForRelora } from "./relora.ts";

/** Everything that a run needs, opened. */
export interface TrainingSetup {
  /** With what `auto` stands for here. */
  readonly run: Run;
  readonly backend: Device;
  readonly data: DataSource;
  readonly tokenizer: Tokenizer;
  readonly model: ModelSource;
  readonly method: Method;
  /** What is trained. */
  readonly params: Params;
  /** Every weight of the model, where what is trained stands beside them. */
  readonly base?: Params;
  /** When what is trained is folded into them. */
  readonly restarts?: Restarts;
  /** The weights as the model sees them. */
  readonly view: ParamsView;
  /** From rows to losses. */
  readonly objective: Objective;
  readonly choice: OptimizerChoice;
  readonly optimizer: Optimizer;
}

/** Opens everything that a run needs, the memory checked first. The caller disposes device, weights and optimizer. */
export async function prepareTraining(asked: Run, output: Output): Promise<TrainingSetup> {
  const request = { ...asked, data: await chooseText(asked), modelFolder: asked.model };
  const masked = await isMaskedModel(asked.model);
  const tokenizer = await chooseTokenizer({ ...request, masked });
  if (asked.prompt !== undefined && tokenizer.encode(asked.prompt).length === 0) {
    throw new RangeError("Cannot sample from an empty --prompt");
  }
  if (masked && asked.seq < 3) {
    throw new RangeError(`Cannot train ${asked.model} on sequences of ${asked.seq}: <s> and </s> leave no token`);
  }
  const model = await resolveModel(asked, tokenizer);
  const backend = await openDevice(asked, output);
  try {
    const run = { ...asked, data: request.data, basis: resolveBasis(asked, backend.kind) };
    if (isHalf(run.dtype) && backend.kind === "cpu") {
      throw new RangeError(`Cannot train in ${run.dtype} on the CPU: use --dtype f32`);
    }
    await checkMemory(run, model, backend);
    const seq = rowLength(model.config, run.seq);
    const data = await openData({ ...request, seq, added: run.seq - seq }, tokenizer);
    const method = resolveMethod(run, model.config);
    const shapes = new Map([...method.weights].map(([name, { shape }]) => [name, shape]));
    const restarts = method.lora && restartsOf(run, run.steps);
    const choice = chooseOptimizer(run, {
      steps: run.steps,
      gradAccum: run.gradAccum,
      seed: run.seed,
      dtype: run.dtype,
      shapes,
      ...{ projected: method.projected, ownSchedule: restarts?.schedule },
      hiddenSize: model.config.hidden_size,
    });
    checkMethod(method, choice, run.optimizer);
    const made = await makeParams(backend, model, { ...run, rank: method.rank });
    const [params, base] = method.lora ? [splitForRelora(made, method.lora, run), made] : [made];
    const optimizer = new Optimizer(params, choice.routing, driverOptions(run, backend));
    for (const note of choice.notes) output.err(`note: ${note}`);
    const view = method.view(params, base);
    const { seed, checkpointActivations: recompute } = run;
    const objective = makeObjective(backend, view, model.config, { seed, recompute, special: model.special });
    const parts = { params, base, restarts, view, objective };
    return { run, backend, data, tokenizer, model, method, ...parts, choice, optimizer };
  } catch (error) {
    backend[Symbol.dispose]();
    throw error;
  }
}

/** A run's weights as restarts take them, where it has any. */
export function reloraParts({ base, params, method: { lora } }: TrainingSetup): ReloraParts | undefined {
  return base && lora && { base, trained: params, lora };
}

/** Writes the model as others take it, factors folded in, and beside it what a run with restarts goes on from. */
export async function saveWeights(writer: FolderWriter, setup: TrainingSetup): Promise<void> {
  const { params, model, tokenizer } = setup;
  const relora = reloraParts(setup);
  const weights = relora ? loraMergedWeights(relora.base, relora.trained, relora.lora) : params;
  await saveModel(writer, weights, model.config, tokenizer.files);
  if (relora) await saveRelora(writer, relora);
}

/** The data of a run: what was asked for, else the text that the task wrote. */
async function chooseText(run: Run): Promise<readonly string[]> {
  if (run.data.length > 0) return run.data;
  if (await exists(DEFAULT_TEXT)) return [DEFAULT_TEXT];
  throw new RangeError(`Cannot train without data: give --data FILE, or write ${DEFAULT_TEXT} with "deno types"`);
}

/** @throws OutOfMemoryError before anything is allocated, RangeError for a tensor that the device cannot hold */
async function checkMemory(run: Run, { config }: ModelSource, backend: Device): Promise<void> {
  const plan = await planMemory(config, planRequest(run, backend));
  const largest = largestTensorOf(backend);
  if (plan.largest.bytes > largest) {
    throw new RangeError(
      `Cannot train ${run.model} on ${backend.kernelPath}: the tensor ${plan.largest.label} takes ` +
        `${formatBytes(plan.largest.bytes)}, and one may take ${formatBytes(largest)} there; ` +
        `use a smaller --batch, --seq or --vocab, or --device cpu`,
    );
  }
  const { limit } = backend.memory();
  if (plan.heldBytes > limit) {
    const state = plan.optimizerBytes + plan.projectorBytes;
    const parts = `weights ${formatBytes(plan.weightBytes)}, optimizer ${formatBytes(state)}, ` +
      `gradients and activations ${formatBytes(plan.heldBytes - plan.weightBytes - state)}`;
    throw new OutOfMemoryError(plan.heldBytes, 0, limit, `training ${run.model} (${parts})`);
  }
}

/** Says what is about to be trained, on what and how, and which parameter gets what. */
export function printSetup(
  { run, backend, data, model, method, params, base, choice, optimizer }: TrainingSetup,
  output: Output,
): void {
  const { config } = model;
  const projected = params.names().filter((name) => method.projected.test(name));
  const share = projected.reduce((sum, name) => sum + params.get(name).size, 0) / params.size;
  output.err(`device    ${backend.summary}`);
  output.err(
    `model     ${model.name}: ${(base ?? params).size.toLocaleString("en-US")} weights, vocabulary ` +
      `${config.vocab_size}, ${base ? `${params.size.toLocaleString("en-US")} trained, ` : ""}` +
      `${(100 * share).toFixed(0)}% in ${method.words}`,
  );
  const { splits: { train, validation }, seq } = data.store.info;
  output.err(
    `data      ${run.data.join(", ")}: ${((train?.rows ?? 0) * seq).toLocaleString("en-US")} tokens to train on, ` +
      `${((validation?.rows ?? 0) * seq).toLocaleString("en-US")} held out, tokenizer ${data.tokenizer.name}`,
  );
  if (isMasked(config)) output.err("objective 15% of the tokens are hidden and found again; no text is sampled");
  output.err("");
  for (const line of formatTable(parameterRows({ run, method, params, choice, optimizer }), "lrllrr")) output.err(line);
  output.err("");
}

/** What the table of parameters is made of. */
export interface ParameterParts extends Pick<TrainingSetup, "params" | "choice" | "optimizer"> {
  readonly run: OptimizerOptions & Pick<Run, "dtype">;
  readonly method: Pick<Method, "projected">;
}

/** Which parameter gets what, and how many bytes: a header, a row a group, a total. */
export function parameterRows(
  { run, method, params, choice, optimizer }: ParameterParts,
): string[][] {
  const bytes = stateBytesByName(optimizer, run);
  const shapes = new Map([...params.entries()].map(([name, tensor]) => [name, tensor.shape]));
  const groups = parameterTable(shapes, run, choice, method.projected, (name) => bytes.get(name) ?? 0);
  const total = (key: "weightBytes" | "stateBytes") => formatBytes(groups.reduce((sum, group) => sum + group[key], 0));
  return [
    ["parameters", "n", "shape", "rule", "weights", "state"],
    ...groups.map(({ name, count, shape, rule, weightBytes, stateBytes }) => [
      name,
      `${count}`,
      `[${shape.join(", ")}]`,
      rule,
      formatBytes(weightBytes),
      formatBytes(stateBytes),
    ]),
    ["total", "", "", "", total("weightBytes"), total("stateBytes")],
  ];
}
