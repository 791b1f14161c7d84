/** One rule that laws are tested on. Test support. */
import type { GaloreOptions, Rule } from "../mod.ts";

/** A rule under test, at a learning rate of the problem's. */
export interface RuleCase {
  readonly name: string;
  readonly make: (learningRate: number) => Rule;
  /** How it moves: by the size of the gradient, or by the rate itself. Picks the rate. */
  readonly kind: "gradient" | "sign";
}

/** Of the laws' galore rules: a basis that is cut to half of the matrices and renewed often. */
export const LAW_GALORE: GaloreOptions = { rank: 2, updateProjGap: 7 };
