/** The laws over every rule, on the loops. */
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { optimizerLaws } from "./testing/laws.ts";

optimizerLaws("the loops", () => loopsBackend());
