/**
 * Optimizers of Lowrank: rules per parameter, and the driver that applies them.
 *
 * @module
 */
export * from "./adafactor.ts";
export { adam, type AdamOptions, type AdamState, adamW, type AdamWOptions, scaleByAdam } from "./adam.ts";
export * from "./affine.ts";
export * from "./apollo.ts";
export * from "./basis_report.ts";
export {
  type BasisRequest,
  type BasisStrategy,
  exactBasis,
  type GenerateRequest,
  gramBasis,
  type Side,
} from "./basis.ts";
export { bfloat16, plain } from "./bfloat16.ts";
export { blockwise8bit, type BlockwiseState } from "./blockwise_8bit.ts";
export * from "./fira.ts";
export * from "./galore.ts";
export { type MuonOptions, scaleByMuon } from "./muon.ts";
export * from "./optimizer.ts";
export { polarBasis, type PolarOptions } from "./polar_basis.ts";
export * from "./presets.ts";
export { type LazyOptions, type ProjectionOptions, type ProjectionState, type RefreshMode } from "./projection.ts";
export { randomBasis, type RandomOptions } from "./random_basis.ts";
export { finishNow, finishReading, type Reading } from "./reading.ts";
export * from "./rule.ts";
export * from "./schedule.ts";
export * from "./sgd.ts";
export { galoreShapes, type ProjType, sidesOf } from "./sides.ts";
export * from "./state.ts";
export { type Codec, storeAs, type StoreOptions } from "./store_as.ts";
export { randomizedBasis, subspaceBasis, type SubspaceOptions } from "./subspace_basis.ts";
