/**
 * Optimizers of Lowrank: rules per parameter, and the driver that applies them.
 *
 * @module
 */
export * from "./adam.ts";
export { type BasisRequest, type BasisStrategy, exactBasis, gramBasis, type Side } from "./basis.ts";
export * from "./galore.ts";
export * from "./optimizer.ts";
export { polarBasis, type PolarOptions } from "./polar_basis.ts";
export * from "./presets.ts";
export * from "./rule.ts";
export * from "./schedule.ts";
export * from "./sgd.ts";
export * from "./state.ts";
export * from "./subspace_basis.ts";
