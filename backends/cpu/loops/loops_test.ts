import { conformance } from "../../conformance.ts";
import { loopsBackend } from "./mod.ts";

await conformance("loops", () => loopsBackend());
