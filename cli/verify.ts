/** `verify`: checks a store of tokens or images, or a checkpoint, byte by byte. */
import { isHttpUrl, storeKind, verifyImageStore, type VerifyProgress, verifyStore } from "../data/mod.ts";
import { openWeights } from "../models/mod.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { verifyFolder } from "./durable.ts";
import { exists, FileFolder, join } from "./files.ts";
import type { Output } from "./log.ts";
import { PhaseProgress } from "./phase_progress.ts";

/** The verb's flags. */
export const verifyVerb = defineVerb({
  name: "verify",
  summary: "checks a store or a checkpoint, byte by byte",
  example: "deno task verify corpus.zarr",
  positional: { name: "PATH", help: "a store (folder or URL), a checkpoint or a model folder", min: 1 },
  flags: {},
});

/** Runs the verb. @throws SyntaxError when something is wrong, after listing it. */
export async function verify(argv: readonly string[], output: Output): Promise<void> {
  const [path] = parseVerb(verifyVerb, argv).positional;
  const problems = await problemsOf(path, output);
  for (const problem of problems) output.err(problem);
  if (problems.length === 0) return;
  throw new SyntaxError(`Cannot vouch for ${path}: ${problems.length} problem${problems.length > 1 ? "s" : ""}`);
}

async function problemsOf(path: string, output: Output): Promise<string[]> {
  if (isHttpUrl(path) || await exists(join(path, "zarr.json"))) {
    return await storeProblems(path, output);
  }
  if (await exists(join(path, "manifest.json"))) {
    const { problems, files, bytes } = await verifyFolder(path);
    if (problems.length === 0) {
      output.out(`${path}: sound; ${files} files, ${bytes.toLocaleString("en-US")} bytes, every SHA-256 right`);
    }
    return [...problems];
  }
  await using weights = await openWeights(new FileFolder(path));
  output.out(
    `${path}: readable; ${weights.names.length} tensors, ${
      weights.totalBytes.toLocaleString("en-US")
    } bytes, no checksums to compare`,
  );
  return [];
}

async function storeProblems(path: string, output: Output): Promise<string[]> {
  using bar = new PhaseProgress(output);
  const onProgress = ({ chunks, totalChunks }: VerifyProgress) => bar.update("verify", chunks, totalChunks);
  const isImages = await storeKind(path) === "images";
  const report = isImages ? await verifyImageStore(path, { onProgress }) : await verifyStore(path, { onProgress });
  if (report.faults.length === 0) {
    const rows = `${report.rows} ${isImages ? "images" : "sequences"}`;
    output.out(
      `${path}: sound; ${rows} in ${report.chunks} chunks of ${report.shards} shards, every checksum right`,
    );
  }
  return report.faults.map((fault) => fault.message);
}
