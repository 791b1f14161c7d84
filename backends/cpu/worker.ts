/** The module of a pool worker: takes its start message, then serves jobs until the pool stops. See threads.ts. */
import { parentPort } from "node:worker_threads";
import { serve, type WorkerStart } from "./threads.ts";

parentPort?.once("message", (start: WorkerStart) => {
  try {
    serve(start, () => parentPort?.postMessage({}));
  } catch (error) {
    parentPort?.postMessage({ error: error instanceof Error ? error.message : String(error) });
  }
});
