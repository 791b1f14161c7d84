/**
 * Writes checkpoints into a run until it is killed: for `durable_test.ts`. Prints the step after each, so that the test
 * knows what must be there. Arguments: the run's folder, the first step.
 */
import { writeFolderDurably } from "../durable.ts";
import { checkpointName, pruneCheckpoints } from "../run_folder.ts";

const [run, first] = Deno.args;
const piece = new Uint8Array(64 * 1024);
for (let step = Number(first);; step++) {
  await writeFolderDurably(`${run}/checkpoints`, checkpointName(step), async (writer) => {
    for (const file of ["model.safetensors", "optimizer.safetensors", "state.json"]) {
      await using sink = await writer.create(file);
      for (let i = 0; i < 4; i++) await sink.write(crypto.getRandomValues(piece));
    }
  });
  Deno.stdout.writeSync(new TextEncoder().encode(`${step}\n`));
  await pruneCheckpoints(run, 2);
}
