/**
 * The core of Lowrank: tensors, ops with gradients, scopes and parameters over any backend. No I/O of any kind.
 *
 * @module
 */
export * from "./autograd.ts";
export * from "./backend.ts";
export * from "./codebook.ts";
export { withoutFused } from "./define.ts";
export * from "./dtype.ts";
export * from "./errors.ts";
export {
  cholesky,
  gramSvd,
  invertLower,
  leadingSingularVectors,
  orthonormalColumns,
  svd,
  symmetricEigen,
} from "./linalg.ts";
export * from "./ops/attention.ts";
export * from "./ops/create.ts";
export * from "./ops/elementwise.ts";
export * from "./ops/indexing.ts";
export * from "./ops/layout.ts";
export * from "./ops/loss.ts";
export * from "./ops/matmul.ts";
export * from "./ops/norm.ts";
export * from "./ops/reduce.ts";
export * from "./ops/rounding.ts";
export * from "./params.ts";
export { foldIn, type Key, keyOf, normal, uniform } from "./random.ts";
export { currentScope, own, type Owned, type Scope, scope } from "./scope.ts";
export * from "./shape.ts";
export * from "./tensor.ts";
