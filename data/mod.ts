/**
 * Text to batches of token ids: tokenizers, streaming readers, a sharded Zarr v3 store that is verified on every read,
 * and a loader that reads it off the main thread in an order that any position can resume.
 * It yields host typed arrays, and knows no other package of this project.
 *
 * @module
 */

export { CorruptDataError, type CorruptDataFields } from "./errors.ts";
export type { Tokenizer } from "./tokenizer.ts";
export { loadTokenizer } from "./load_tokenizer.ts";
export { maskedByteTokenizer } from "./masked_byte_tokenizer.ts";
export { byteTokenizer } from "./byte_tokenizer.ts";
export { readDocuments, type ReadDocumentsOptions, type TextPiece } from "./text.ts";
export { type PrepareOptions, type PrepareProgress, prepareStore } from "./prepare.ts";
export { type StoreLayoutOptions, writeStore, type WriteStoreOptions } from "./write_store.ts";
export { cachedStore, type CachedStoreOptions } from "./cache.ts";
export type { TokenArray } from "./chunks.ts";
export type { RetryOptions } from "./retry.ts";
export type { HttpOptions } from "./http_files.ts";
export { TokenSplit } from "./token_split.ts";
export { isHttpUrl, openStore, type StoreOptions, TokenStore } from "./store.ts";
export type { SourceInfo, SplitName, StoreInfo } from "./zarr.ts";
export { type VerifyOptions, type VerifyProgress, type VerifyReport, verifyStore } from "./verify.ts";
export { Batches, type BatchesOptions } from "./batches.ts";
export type { Batch } from "./batch_reader.ts";
export { type NgramBaseline, ngramBaselines } from "./ngram.ts";
export { accuracy, f1, matthewsCorrelation, type MetricName, METRICS, pearson, spearman } from "./metrics.ts";
export {
  GLUE_TASKS,
  type GlueName,
  glueTask,
  ownTask,
  type OwnTaskOptions,
  type SentenceTask,
  type TaskColumns,
} from "./glue_tasks.ts";
export { type Example, readClassNames, readExamples, type ReadExamplesOptions, requireEveryClass } from "./examples.ts";
export { type EncodedExample, encodeExamples, type EncodeOptions } from "./sequences.ts";
export {
  type LabelledIds,
  type LengthBatch,
  lengthBatches,
  type LengthBatchesOptions,
  numLengthBatches,
} from "./length_batches.ts";
export { ANSWERS, type ChatMessage, type ChatRecord, readChat } from "./chat.ts";
export {
  ChatTemplate,
  encodeChat,
  encodeChatPrompt,
  type EncodedChat,
  loadChatTemplate,
  PLAIN_CHAT_TEMPLATE,
} from "./chat_template.ts";
export {
  hasAnswerWithin,
  packChat,
  type PackedBatch,
  packedBatches,
  type PackedBatchesOptions,
  type PackedRows,
  type PackOptions,
} from "./packing.ts";
export { decodeImage, type Image, type ImageChannels } from "./images.ts";
export { type Fit, fitImage, type ImageSize, resizeImage } from "./resize.ts";
export type { ImageChoiceOptions } from "./image_choice.ts";
export type { PrepareImagesProgress } from "./image_passes.ts";
export { type ImageInputs, prepareImages, type PrepareImagesOptions } from "./prepare_images.ts";
export { type ImageStore, openImageStore, storeKind } from "./image_store.ts";
export type { ImageSplit, LabelledImages } from "./image_split.ts";
export type { ImageSplitInfo, ImageStoreInfo } from "./image_zarr.ts";
export { type ImageVerifyReport, verifyImageStore } from "./image_verify.ts";
export { ImageBatches, type ImageBatchesOptions } from "./image_batches.ts";
export { type ImageBatch, numImageBatches } from "./image_batch_reader.ts";
export { IMAGENET_NORMALIZATION, type ImageTransformOptions, normalizePixels } from "./image_transform.ts";
export {
  type JsonRecord,
  jsonRecords,
  readTable,
  type Table,
  TABLE_KINDS,
  type TableOptions,
  type TableRow,
} from "./table.ts";
export { readTriples, type ReadTriplesOptions, type Triples } from "./triples.ts";

export * from "./divergence.ts";
export * from "./group_metrics.ts";
