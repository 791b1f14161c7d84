/** `train`: from flags to a trained model in a run folder, with what happened beside it. */
import { formatBytes, OutOfMemoryError, type Params } from "../core/mod.ts";
import type { CpuBackend } from "../backends/cpu/mod.ts";
import { Batches, type Tokenizer } from "../data/mod.ts";
import { LLAMA_PROJECTED, llamaWeights, openWeights } from "../models/mod.ts";
import { Optimizer } from "../optimizers/mod.ts";
import { defineVerb, givenOptions, parseVerb, UsageError } from "./arguments.ts";
import { loadOptimizer, loadTrainingState, type TrainingState } from "./checkpoint.ts";
import { chooseTokenizer, type DataSource, DEFAULT_TEXT, openData } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { exists, FileFolder } from "./files.ts";
import { dataFlags, deviceFlags, modelFlags, optimizerFlags, runFlags, scheduleFlags } from "./flags.ts";
import { formatTable, type Output } from "./log.ts";
import { planMemory, planRows, stateBytesByName } from "./memory_plan.ts";
import { makeParams, type ModelSource, resolveModel } from "./model_source.ts";
import { chooseOptimizer, type OptimizerChoice, parameterTable } from "./optimizer_choice.ts";
import type { Run } from "./options.ts";
import { resolveRun } from "./recipe.ts";
import { checkIdentity, identityOf, readRun } from "./resume.ts";
import { latestCheckpoint, resumeRun, type RunFolder } from "./run_folder.ts";
import { trainLoop } from "./trainer.ts";
import { runTraining } from "./training_run.ts";

/** The verb's flags. */
export const trainVerb = defineVerb({
  name: "train",
  summary: "trains a LLaMA, with GaLore unless told otherwise; without flags, on TypeScript declarations",
  example: [
    "deno task train",
    "deno task train --model llama-60m --data corpus.jsonl --tokenizer ./gpt2 --rank 128 --steps 2000 --save-every 200",
    "deno task train --resume runs/llama-60m-galore_adamw-20261123-101500",
  ],
  flags: { ...modelFlags, ...dataFlags, ...optimizerFlags, ...scheduleFlags, ...deviceFlags, ...runFlags },
});

/** Runs the verb. */
export async function train(argv: readonly string[], output: Output): Promise<void> {
  const parsed = parseVerb(trainVerb, argv);
  const { resume, config, dryRun } = parsed.options;
  const { resume: _resume, config: _config, dryRun: _dryRun, ...flags } = givenOptions(parsed);
  if (resume !== undefined && flags.out !== undefined) {
    throw new UsageError("Cannot use --out with --resume: a run goes on in its own folder");
  }
  using folder = resume === undefined ? undefined : await resumeRun(resume);
  const saved = folder ? await readRun(folder) : {};
  const run = await resolveRun(flags, config, saved);
  const setup = await prepareTraining(run, output);
  using _backend = setup.backend;
  using _params = setup.params;
  using _optimizer = setup.optimizer;
  printSetup(setup, output);
  if (dryRun) return await dryRunOnce(setup, output);
  const resumed = folder ? await restore(folder, setup, output) : undefined;
  await runTraining(setup, { folder, resumed }, output);
}

/** Everything that a run needs, opened. */
export interface TrainingSetup {
  readonly run: Run;
  readonly backend: CpuBackend;
  readonly data: DataSource;
  readonly tokenizer: Tokenizer;
  readonly model: ModelSource;
  readonly params: Params;
  readonly choice: OptimizerChoice;
  readonly optimizer: Optimizer;
}

async function prepareTraining(run: Run, output: Output): Promise<TrainingSetup> {
  if (run.dtype !== "f32") throw new RangeError(`Cannot train in ${run.dtype} on the CPU: use --dtype f32`);
  const request = { ...run, data: await chooseText(run), modelFolder: run.model };
  const tokenizer = await chooseTokenizer(request);
  if (run.prompt !== undefined && tokenizer.encode(run.prompt).length === 0) {
    throw new RangeError("Cannot sample from an empty --prompt");
  }
  const model = await resolveModel(run, tokenizer);
  const backend = await openDevice(run);
  try {
    await checkMemory(run, model, backend);
    const data = await openData(request, tokenizer);
    const params = await makeParams(backend, model, run.seed);
    const shapes = new Map([...llamaWeights(model.config)].map(([name, { shape }]) => [name, shape]));
    const choice = chooseOptimizer(run, {
      steps: run.steps,
      gradAccum: run.gradAccum,
      seed: run.seed,
      shapes,
      projected: LLAMA_PROJECTED,
      hiddenSize: model.config.hidden_size,
    });
    const optimizer = new Optimizer(params, choice.routing, { clip: run.clip || undefined });
    for (const note of choice.notes) output.err(`note: ${note}`);
    return { run: { ...run, data: request.data }, backend, data, tokenizer, model, params, choice, optimizer };
  } catch (error) {
    backend[Symbol.dispose]();
    throw error;
  }
}

/** The data of a run: what was asked for, else the text that the task wrote. */
async function chooseText(run: Run): Promise<readonly string[]> {
  if (run.data.length > 0) return run.data;
  if (await exists(DEFAULT_TEXT)) return [DEFAULT_TEXT];
  throw new RangeError(`Cannot train without data: give --data FILE, or write ${DEFAULT_TEXT} with "deno types"`);
}

/** @throws OutOfMemoryError before anything is allocated. */
async function checkMemory(run: Run, { config }: ModelSource, backend: CpuBackend): Promise<void> {
  const plan = await planMemory(config, run);
  const { limit } = backend.memory();
  if (plan.peakBytes > limit) {
    const state = plan.optimizerBytes + plan.projectorBytes;
    const parts = `weights ${formatBytes(plan.weightBytes)}, optimizer ${formatBytes(state)}, ` +
      `gradients and activations ${formatBytes(plan.peakBytes - plan.weightBytes - state)}`;
    throw new OutOfMemoryError(plan.peakBytes, 0, limit, `training ${run.model} (${parts})`);
  }
}

function printSetup({ run, backend, data, model, params, choice, optimizer }: TrainingSetup, output: Output): void {
  const { config } = model;
  const projected = params.names().filter((name) => LLAMA_PROJECTED.test(name));
  const share = projected.reduce((sum, name) => sum + params.get(name).size, 0) / params.size;
  output.err(`device    ${backend.kernelPath}, ${backend.threads} threads`);
  output.err(
    `model     ${model.name}: ${params.size.toLocaleString("en-US")} weights, vocabulary ${config.vocab_size}, ` +
      `${(100 * share).toFixed(0)}% in projected matrices`,
  );
  const { train, validation } = data.store.info.splits;
  output.err(
    `data      ${run.data.join(", ")}: ${((train?.rows ?? 0) * run.seq).toLocaleString("en-US")} tokens to train on, ` +
      `${((validation?.rows ?? 0) * run.seq).toLocaleString("en-US")} held out, tokenizer ${data.tokenizer.name}`,
  );
  output.err("");
  for (const line of formatTable(parameterRows({ run, params, choice, optimizer }), "lrllrr")) output.err(line);
  output.err("");
}

/** Which parameter gets what, and how many bytes: a header, a row a group, a total. */
export function parameterRows(
  { run, params, choice, optimizer }: Pick<TrainingSetup, "run" | "params" | "choice" | "optimizer">,
): string[][] {
  const bytes = stateBytesByName(optimizer);
  const shapes = new Map([...params.entries()].map(([name, tensor]) => [name, tensor.shape]));
  const groups = parameterTable(shapes, run, choice, LLAMA_PROJECTED, (name) => bytes.get(name) ?? 0);
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

async function dryRunOnce(setup: TrainingSetup, output: Output): Promise<void> {
  const plan = await planMemory(setup.model.config, setup.run);
  for (const line of formatTable(planRows(plan), "lr")) output.err(line);
  const { batch, seed } = setup.run;
  await using batches = new Batches(setup.data.path, { batch, seed, readers: 0 });
  await trainLoop({ ...setup, config: setup.model.config, nextBatch: () => batches.next() }, {
    startStep: 0,
    startTokens: 0,
    steps: 1,
    afterStep: (row) => {
      output.out(
        `one step: loss ${row.loss.toFixed(4)}, norm ${row.gradNorm.toFixed(4)}, ${row.stepMs.toFixed(0)} ms, ` +
          `peak ${formatBytes(row.memoryBytes)} (planned ${formatBytes(plan.peakBytes)})`,
      );
      return Promise.resolve(true);
    },
  });
}

/** Weights, optimizer and position of a run's newest checkpoint. */
async function restore(folder: RunFolder, setup: TrainingSetup, output: Output): Promise<TrainingState> {
  const { checkpoint: latest, warnings } = await latestCheckpoint(folder.path);
  for (const warning of warnings) output.err(`warning: ${warning}`);
  if (!latest) throw new RangeError(`Cannot resume ${folder.path}: it has no checkpoint that verifies`);
  const checkpoint = new FileFolder(latest.path);
  const state = await loadTrainingState(checkpoint);
  checkIdentity(folder.path, state.identity, identityOf(setup));
  if (state.kernelPath !== setup.backend.kernelPath) {
    output.err(
      `warning: the run was computed with ${state.kernelPath}, now with ${setup.backend.kernelPath}: last bits may differ`,
    );
  }
  await loadWeights(checkpoint, setup.params);
  await loadOptimizer(checkpoint, setup.optimizer, setup.backend);
  return state;
}

async function loadWeights(checkpoint: FileFolder, params: Params): Promise<void> {
  await using weights = await openWeights(checkpoint);
  for (const [name, tensor] of params.entries()) tensor.write(await weights.float32(name));
}
