/**
 * What a fine-tuning run learns, whatever the model: batches, a loss, and how well a model does. `classification.ts`,
 * `sft.ts` and `vision.ts` make one; the run knows nothing else of them. It holds no tensor, and every batch is a function of its place.
 */
import type { Backend, Key, Params, ParamsView, Tensor } from "../core/mod.ts";
import type { LlamaConfig, PeftTask, RobertaConfig, VisualPrompts, VitConfig } from "../models/mod.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Output, SpeedUnit } from "./log.ts";
import type { ReportData } from "./report.ts";
import type { BatchSize } from "./trainer.ts";

/** How a model did. */
export interface Evaluation {
  /** Mean over what is counted: cross-entropy in nats, or the squared error. */
  readonly loss: number;
  /** The task's measures by name. */
  readonly scores: Readonly<Record<string, number>>;
  /** What a report shows of it beside figures. */
  illustrate?(): Promise<Pick<ReportData, "pictures" | "confusion">>;
}

/** A batch of a run. */
export interface SubjectRows extends BatchSize {
  /** Its place among all batches of the run: what dropout is drawn by. */
  readonly index: number;
}

/** How a loss is computed. */
export interface LossOptions {
  /** The key of a batch's dropout. Without one nothing is dropped. */
  readonly dropoutKey?: Key;
  /** Keeps only each layer's input for backward. */
  readonly recompute?: boolean;
  /** Learned tokens in the sequence of a ViT. */
  readonly prompts?: VisualPrompts;
}

/** What is learned. */
export interface Subject<Rows extends SubjectRows = SubjectRows> {
  /** For names and messages. */
  readonly task: string;
  readonly modelType: "roberta" | "llama" | "vit";
  /** What an adapter is for, in PEFT's words, where it has one for it. */
  readonly peftTask: PeftTask | undefined;
  readonly config: RobertaConfig | LlamaConfig | VitConfig;
  /** What stands beside the weights in a folder: the tokenizer's files, or what images are prepared by. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** Modules that are trained whole beside adapters. */
  readonly modulesToSave: readonly string[];
  /** Names of the matrices that an optimizer may project. */
  readonly projected: RegExp;
  readonly batchesAnEpoch: number;
  /** Whether an evaluation has more to show in a report than figures. */
  readonly isIllustrated?: boolean;
  /** The score that picks the best model, and whether a higher one is better. */
  readonly selectBy: { readonly name: string; readonly isHigher: boolean };
  /** What `batch` of a batch counts, in the plural. */
  readonly unit: string;
  /** What speed is told in, where it is not tokens. */
  readonly speedUnit?: SpeedUnit;
  /** What the plot of the loss is in. */
  readonly lossUnit: string;
  /** The model and the data, in words. */
  readonly words: { readonly model: string; readonly data: string };
  /** Options with what their defaults stand for here. */
  readonly resolved: Partial<Finetune>;
  /** What must be the same for a resumed run to be the same run. */
  readonly identity: Readonly<Record<string, unknown>>;
  /** The weights before the run. */
  load(backend: Backend, output: Output): Promise<Params>;
  /** The batches of an epoch from one of its places on. */
  epoch(epoch: number, start: number): Iterator<Rows> | AsyncIterator<Rows>;
  /** A scalar of a batch, on the tape. */
  loss(view: ParamsView, rows: Rows, options?: LossOptions): Tensor;
  /** What `measure` runs over, or a batch as large as its largest: what its memory is planned by. */
  heldOut(): Iterator<Rows>;
  /** On what is held out. */
  measure(view: ParamsView, options?: Pick<LossOptions, "prompts">): Promise<Evaluation>;
  /** Ends what reads its data. */
  close?(): void;
}

/** Batches without end, epoch after epoch, from any batch on. Close it: some come from a thread. */
export class EpochBatches implements AsyncDisposable {
  #next: number;
  #epoch: Iterator<SubjectRows> | AsyncIterator<SubjectRows> | undefined;

  constructor(readonly subject: Pick<Subject, "epoch" | "batchesAnEpoch">, start: number) {
    this.#next = start;
  }

  /** The next batch in order. */
  async next(): Promise<SubjectRows> {
    const { subject } = this;
    const place = this.#next % subject.batchesAnEpoch;
    if (place === 0 || !this.#epoch) {
      await this.#epoch?.return?.();
      this.#epoch = subject.epoch(Math.floor(this.#next / subject.batchesAnEpoch), place);
    }
    const { value } = await this.#epoch.next();
    return { ...value as SubjectRows, index: this.#next++ };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#epoch?.return?.();
    this.#epoch = undefined;
  }
}
