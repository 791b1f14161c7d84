/** Adapters with drawn numbers that change what tiny models say. Only tests import this. */
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { fromArray, keyOf, normal, own, Params } from "../../core/mod.ts";
import {
  initFlora,
  initLlama,
  initLora,
  initRoberta,
  type LlamaConfig,
  type LoraConfig,
  type RobertaConfig,
  saveHira,
  savePeft,
} from "../../models/mod.ts";
import { writeFolderDurably } from "../durable.ts";

/** How an adapter is made. */
export interface TinyAdapter {
  readonly seed: number;
  /** Default LoRA. */
  readonly kind?: "lora" | "flora";
  readonly lora?: Partial<LoraConfig>;
  /** Size of its numbers: large ones change every answer. Default 0.3. */
  readonly size?: number;
  /** The model that it says it is for. */
  readonly baseModel?: string;
}

/** Writes an adapter of a LLaMA in PEFT's files. */
export async function writeLlamaAdapter(folder: string, config: LlamaConfig, adapter: TinyAdapter): Promise<void> {
  using base = initLlama(loopsBackend(), config, 1);
  await writeAdapter(folder, base, { targets: ["q_proj", "v_proj"], ...adapter.lora }, adapter);
}

/** Writes an adapter of a RoBERTa in PEFT's files, with a head of its own. */
export async function writeRobertaAdapter(folder: string, config: RobertaConfig, adapter: TinyAdapter): Promise<void> {
  using base = initRoberta(loopsBackend(), config, { seed: 1, head: "classification" });
  const targets = ["query", "value"];
  await writeAdapter(folder, base, { targets, modulesToSave: ["classifier"], ...adapter.lora }, adapter);
}

type Settings = Partial<LoraConfig> & Pick<LoraConfig, "targets">;

async function writeAdapter(folder: string, base: Params, settings: Settings, adapter: TinyAdapter): Promise<void> {
  const { seed, baseModel, kind = "lora" } = adapter;
  const config: LoraConfig = { r: 2, alpha: 4, ...settings };
  const use = { taskType: config.modulesToSave?.length ? "SEQ_CLS" : "CAUSAL_LM", baseModel } as const;
  using begun = kind === "lora" ? initLora(base, config, { seed }) : initFlora(base, config, { seed });
  using drawn = drawnLike(begun, adapter);
  await writeFolderDurably(
    ".",
    folder,
    (writer) =>
      kind === "lora"
        ? savePeft(writer, drawn, { ...use, lora: config }, base.entries())
        : saveHira(writer, drawn, { ...use, flora: config }, base.entries()),
  );
}

/** Drawn numbers in place of an adapter's first ones, which change nothing. */
function drawnLike(begun: Params, { seed, size = 0.3 }: TinyAdapter): Params {
  const drawn = new Params(begun.backend);
  for (const [place, [name, tensor]] of [...begun.entries()].entries()) {
    const values = normal(keyOf(1000 * seed + place), tensor.size).map((value) => size * value);
    drawn.set(name, own(fromArray(begun.backend, values, tensor.shape)));
  }
  return drawn;
}
