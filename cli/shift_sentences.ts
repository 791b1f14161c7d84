/** Sentences with labels and groups, for RoBERTas with a classification head: a `ShiftSubject`. */
import { decorated, fromArray, matmul, type ParamsView, scope } from "../core/mod.ts";
import { encodeExamples, type LengthBatch, lengthBatches, loadTokenizer, readExamples } from "../data/mod.ts";
import { ROBERTA_PROJECTED, type RobertaConfig, robertaLens, withLabels } from "../models/mod.ts";
import { headLabels, readAdapterLabels } from "./adapter_labels.ts";
import { type Head, numbersOf } from "./eval_labels.ts";
import { FileFolder } from "./files.ts";
import { resolveTask } from "./finetune_data.ts";
import { FINETUNE_DEFAULTS, USUAL_LENGTH } from "./finetune_options.ts";
import { findModel } from "./resume.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";
import type { ShiftOptions } from "./shift_options.ts";
import {
  checkAlike,
  type LoadedFolder,
  type ProbeBatch,
  probesFile,
  readGroups,
  type ShiftSubject,
} from "./shift_subject.ts";

/** The map whose outputs are the classes' scores. */
const SCORES = "classifier.out_proj";

/** Reads the probes. Classes are those of the reference, unless they are given. */
export async function openSentences(options: ShiftOptions, reference: LoadedFolder): Promise<ShiftSubject> {
  const { group, data, batch } = options;
  if (options.task === undefined) {
    throw new RangeError("Cannot compare RoBERTas without a task: give --task own --sentence COLUMN --label COLUMN");
  }
  const file = probesFile(data);
  const groups = await readGroups(file, group);
  const base = await findModel(options.base);
  // an adapter that does not say its classes has the base's
  const known = (await headOf(reference)).labels ?? (await headOf({ weights: base })).labels!;
  const named = options.labels.length > 0 ? options.labels : [known].flat();
  const task = await resolveTask({ ...options, task: options.task, labels: named });
  const { labels, ...columns } = task;
  if (labels === "score") throw new RangeError("Cannot compare groups by scores: the task must have classes");
  const config = withLabels(await loadRobertaConfig(new FileFolder(base)), labels);
  const positions = config.max_position_embeddings - config.pad_token_id - 1;
  const maxLength = options.maxLength ?? Math.min(USUAL_LENGTH, positions);
  const examples = await readExamples(file, { ...columns, labels }, { split: "validation" });
  const encoded = encodeExamples(await loadTokenizer(base), examples, { maxLength, positions });
  const batches = [...lengthBatches(encoded, { batch, padId: config.pad_token_id })];
  const drawn = new Set<string>();
  return {
    ...{ task: task.name, modelType: "roberta", config, projected: ROBERTA_PROJECTED },
    ...{ isClassifier: true, unit: "example" },
    probes: {
      groupNames: groups.names,
      groups: Int32Array.from(examples, ({ row }) => groups.of.get(row)!),
      choices: labels,
      labels: Int32Array.from(examples, ({ label }) => label),
      positive: positiveOf(labels, options.positive),
    },
    batches: batches.map((one) => batchOf(one, config)),
    load: async (backend, folder, output) => {
      const own = await loadRobertaConfig(new FileFolder(folder));
      checkAlike(folder, own, config);
      const headSeed = FINETUNE_DEFAULTS.seed;
      const replaceHead = folder === base && own.num_labels !== config.num_labels;
      const loading = { head: "classification", config, headSeed, replaceHead } as const;
      const loaded = await loadRoberta(backend, new FileFolder(folder), loading);
      if (loaded.drawn.length > 0) {
        const head = `classification head${replaceHead ? ` for ${labels.length} labels` : ""}`;
        output.err(`note: ${folder} has no ${head}: drawn from seed ${headSeed}, as finetune does`);
        drawn.add(folder);
      }
      return loaded.params;
    },
    inOrder: async (view, place, output) => {
      if (place.adapter === undefined && drawn.has(place.weights)) return view;
      const numbers = numbersOf(await headOf(place), task, (note) => output.err(note));
      return numbers.every((number, i) => number === i) ? view : withOrder(view, numbers);
    },
  };
}

/** What a folder says of the classes of its head. */
async function headOf({ weights, adapter }: LoadedFolder): Promise<Head> {
  if (adapter !== undefined) {
    return { where: adapter, of: "adapter", labels: await readAdapterLabels(new FileFolder(adapter)) };
  }
  return { where: weights, of: "model", labels: headLabels(await loadRobertaConfig(new FileFolder(weights))) };
}

/** A classifier whose score of class c is the one that its head gives as `numbers[c]`. */
function withOrder(view: ParamsView, numbers: readonly number[]): ParamsView {
  const count = numbers.length;
  const order = Float32Array.from(
    { length: count * count },
    (_, i) => Number(numbers[i % count] === Math.floor(i / count)),
  );
  return decorated(view, {
    linear(name, x, plain) {
      const scores = plain.linear(name, x);
      return name === SCORES ? matmul(scores, fromArray(x.backend, order, [count, count])) : scores;
    },
  });
}

function positiveOf(labels: readonly string[], asked: string | undefined): number {
  const found = asked === undefined ? labels.length - 1 : labels.indexOf(asked);
  if (found >= 0) return found;
  throw new RangeError(`Cannot use --positive ${asked}: the classes are ${labels.join(", ")}`);
}

function batchOf({ tokens, mask, labels, indices, size, length }: LengthBatch, config: RobertaConfig): ProbeBatch {
  return {
    rows: Array.from(indices, (item, row) => ({ item, target: labels[row], isWanted: true })),
    owners: Int32Array.from(tokens, (_, place) => mask[place] === 1 ? indices[Math.floor(place / length)] : -1),
    lens: (view) => {
      using _ = scope("sentences");
      const { backend } = view;
      return robertaLens(view, config, {
        tokens: fromArray(backend, tokens, [size, length]),
        mask: fromArray(backend, mask, [size, length], "u32"),
      });
    },
  };
}
