/**
 * Deep LoRA as a way to fine-tune: three factors beside frozen weights, whole or between the subspaces of the first
 * gradient. For use it is written as the LoRA adapter that its product is, in PEFT's files; for going on, which needs the
 * factors themselves, as `deep_lora.safetensors` in a checkpoint.
 */
import { add, backward, own, type Params, scope, type Tensor } from "../core/mod.ts";
import {
  collapsedConfig,
  collapseDeepLora,
  DEEP_LORA_OUTER,
  DEEP_LORA_TENSORS,
  type DeepLoraConfig,
  deepLoraWeights,
  initDeepLora,
  loraMergedWeights,
  savePeft,
  withDeepLora,
} from "../models/mod.ts";
import { saveAdapterLabels } from "./adapter_labels.ts";
import { loraConfigOf } from "./finetune_lora.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";
import { EpochBatches } from "./finetune_subject.ts";
import { restoreTrained, saveTrained } from "./trained_file.ts";

/** The factors of a checkpoint. */
const FACTORS_FILE = "deep_lora.safetensors";

/**
 * Adam's eps for factors that are all of size 1. A factor's gradient is the weight's times both others, epsilon squared at
 * first: against the usual eps it would be nothing, and the factors would stay where they began.
 */
const UNIT_EPS = 1e-8;

/** Growth of its norm from which a factor is said to have moved. */
const MOVED = 0.01;

/** Batches that the gradient of the compressed form is the mean of, where an epoch has as many. */
const GRADIENT_BATCHES = 8;

/**
 * Trains three factors for each target. Compressed, it first runs some batches over the base, whose targets' gradients
 * are held on the device, and then on the host, until the subspaces are found.
 *
 * @throws RangeError for targets that are not among the model's modules, or narrower than a compressed form
 * @throws TypeError for a target that is no linear map
 */
export async function deepLoraMethod(context: MethodContext): Promise<FinetuneMethod> {
  const { base, run, subject, modelFolder } = context;
  const { targets, modulesToSave } = loraConfigOf(run, subject);
  const config: DeepLoraConfig = {
    ...{ r: run.rank, epsilon: run.deepInit, compress: run.deepCompress, dropout: run.loraDropout },
    ...{ targets, modulesToSave },
  };
  const gradients = run.deepCompress ? await firstGradients(context, config) : undefined;
  const trained = initDeepLora(base, config, { seed: run.seed, gradients });
  base.freeze(base.names());
  const startNorms = await innerNorms(trained);
  const peft = { lora: collapsedConfig(config), taskType: subject.peftTask, baseModel: modelFolder };
  return {
    ...{ trained, projected: DEEP_LORA_TENSORS, hasAdapter: true },
    eps: UNIT_EPS * run.deepInit ** 2,
    ...run.deepCompress ? { rates: [[DEEP_LORA_OUTER, run.deepGamma]] } : {},
    endNotes: async () => {
      const norms = await innerNorms(trained);
      if (norms.some((norm, i) => Math.abs(norm / startNorms[i] - 1) > MOVED)) return [];
      return [
        `the factors have not moved from --deep-init ${run.deepInit}: give a larger one, a higher --lr or more steps`,
      ];
    },
    view: (dropoutKey) => withDeepLora(base, [{ params: trained, config }], { dropoutKey }),
    merged: () => {
      const collapsed = collapseDeepLora(trained);
      return mergedModel(loraMergedWeights(base, collapsed, collapsedConfig(config)), collapsed);
    },
    saveState: (writer) => saveTrained(writer, FACTORS_FILE, trained),
    restoreState: (folder) => restoreTrained(folder, FACTORS_FILE, trained),
    saveAdapter: async (writer) => {
      using collapsed = collapseDeepLora(trained);
      await savePeft(writer, collapsed, peft, base.entries());
      await saveAdapterLabels(writer, subject.config);
    },
    [Symbol.dispose]: () => trained.dispose(),
  };
}

/** Norms of the factors that begin at epsilon. */
async function innerNorms(trained: Params): Promise<number[]> {
  const names = trained.names().filter((name) => DEEP_LORA_TENSORS.test(name) && !DEEP_LORA_OUTER.test(name));
  const norms: number[] = [];
  for (const name of names) {
    const values = await trained.get(name).read() as Float32Array;
    norms.push(Math.sqrt(values.reduce((sum, value) => sum + value * value, 0)));
  }
  return norms;
}

/** The gradients of the targets' weights, added up over the run's first batches, on the host. Nothing is dropped. */
async function firstGradients(
  { base, subject, run }: MethodContext,
  config: DeepLoraConfig,
): Promise<Map<string, Float32Array>> {
  const specs = [...deepLoraWeights(base.entries(), config).values()];
  const wanted = new Set(specs.filter(({ start }) => start === "subspace").map(({ weight }) => weight));
  base.freeze(base.names().filter((name) => !wanted.has(name)));
  const sums = new Map<string, Tensor>();
  try {
    await using batches = new EpochBatches(subject, 0);
    for (let i = Math.min(GRADIENT_BATCHES, subject.batchesAnEpoch); i > 0; i--) {
      const rows = await batches.next();
      using _ = scope("first gradient");
      const loss = subject.loss(base, rows, { recompute: run.checkpointActivations });
      backward(loss, (name, gradient) => {
        const before = sums.get(name);
        sums.set(name, before ? own(add(before, gradient)) : gradient.retained());
        before?.dispose();
      });
    }
    const host = new Map<string, Float32Array>();
    for (const [name, sum] of sums) host.set(name, Float32Array.from(await sum.read() as Float32Array));
    return host;
  } finally {
    for (const sum of sums.values()) sum.dispose();
  }
}
