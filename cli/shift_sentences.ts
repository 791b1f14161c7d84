/** Sentences with labels and groups, for RoBERTas with a classification head: a `ShiftSubject`. */
import { fromArray, scope } from "../core/mod.ts";
import { encodeExamples, type LengthBatch, lengthBatches, loadTokenizer, readExamples } from "../data/mod.ts";
import { ROBERTA_PROJECTED, type RobertaConfig, robertaLens, withLabels } from "../models/mod.ts";
import { FileFolder } from "./files.ts";
import { resolveTask } from "./finetune_data.ts";
import { FINETUNE_DEFAULTS, USUAL_LENGTH } from "./finetune_options.ts";
import { findModel } from "./resume.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";
import type { ShiftOptions } from "./shift_options.ts";
import { checkAlike, type ProbeBatch, probesFile, readGroups, type ShiftSubject } from "./shift_subject.ts";

/** Reads the probes. Classes are those of the reference, unless they are given. */
export async function openSentences(options: ShiftOptions): Promise<ShiftSubject> {
  const { group, data, batch } = options;
  const task = options.task;
  if (task === undefined) {
    throw new RangeError("Cannot compare RoBERTas without a task: give --task own --sentence COLUMN --label COLUMN");
  }
  const file = probesFile(data);
  const groups = await readGroups(file, group);
  const base = await findModel(options.base);
  const known = await loadRobertaConfig(new FileFolder(await configFolder(options.reference, base)));
  const named = options.labels.length > 0 ? options.labels : Object.values(known.id2label);
  const { labels, ...columns } = await resolveTask({ ...options, task, labels: named });
  if (labels === "score") throw new RangeError("Cannot compare groups by scores: the task must have classes");
  const config = withLabels(await loadRobertaConfig(new FileFolder(base)), labels);
  const positions = config.max_position_embeddings - config.pad_token_id - 1;
  const maxLength = options.maxLength ?? Math.min(USUAL_LENGTH, positions);
  const examples = await readExamples(file, { ...columns, labels }, { split: "validation" });
  const encoded = encodeExamples(await loadTokenizer(base), examples, { maxLength, positions });
  const batches = [...lengthBatches(encoded, { batch, padId: config.pad_token_id })];
  return {
    ...{ task, modelType: "roberta", config, projected: ROBERTA_PROJECTED, isClassifier: true, unit: "example" },
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
      const loaded = await loadRoberta(backend, new FileFolder(folder), { head: "classification", config, headSeed });
      if (loaded.drawn.length > 0) {
        output.err(`note: ${folder} has no classification head: drawn from seed ${headSeed}, as finetune does`);
      }
      return loaded.params;
    },
  };
}

/** Where the reference says its classes: its own folder, or the base's where it is an adapter. */
async function configFolder(reference: string, base: string): Promise<string> {
  const folder = new FileFolder(reference);
  if (await folder.has("adapter_config.json")) return base;
  return await findModel(reference);
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
