/**
 * The laws over every rule: composed on the loops, and with fused updates on the CPU backend. There every other kind of
 * projection has the same updates, so that of those a share runs; with LOWRANK_GOLDENS=all they do too.
 */
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { optimizerLaws } from "./testing/laws.ts";
import { RULES } from "./testing/rules.ts";

optimizerLaws("the loops", () => loopsBackend());
const others = Deno.env.get("LOWRANK_GOLDENS") === "all" ? /^$/ : /\) (reverse_std|left|right)$/;
const rules = RULES.filter(({ name }) => !others.test(name));
optimizerLaws("the CPU backend", () => cpuBackend({ threads: 2, blas: "off" }), { dtypes: ["f32"], rules });
