/**
 * `deno task test:webgpu`: what only minutes can show of the WebGPU backend. 200 steps of the default recipe on both devices,
 * from the same seed and data; 2,000 steps of a tiny model without drift; 600 backends made and disposed. Prints
 * figures; exit code 1 where one is out of bounds. Runs on whatever adapter there is, in software too.
 */
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { webgpuBackend } from "../../backends/webgpu/mod.ts";
import { fill, formatBytes } from "../../core/mod.ts";
import { byteTokenizer, prepareStore } from "../../data/mod.ts";
import { formatTable, memoryOutput } from "../log.ts";
import { main } from "../main.ts";
import { stepRows } from "../testing/workspace.ts";
import { driftsOf, soak, soakLines } from "../testing/soak.ts";

/** Most that the loss curves may differ: at a step, and in the mean of the last twenty. */
const CURVE = { step: 0.15, end: 0.02 };
const [STEPS, SOAK_STEPS, BACKENDS] = [200, 2000, 600];
/** Most bytes that the process may grow by at a step of the soak, and for each backend that comes and goes. */
const [BYTES_A_STEP, BYTES_A_BACKEND] = [10_000, 50_000];

async function train(device: string, data: string): Promise<void> {
  const output = memoryOutput();
  const flags = `--device ${device} --basis subspace --steps ${STEPS} --eval-every 0 --eval-batches 1 --blas off`;
  const code = await main(["train", ...flags.split(" "), "--data", data, "--out", device], output);
  if (code !== 0) throw new Error(output.errText);
}

/** The default recipe twice; how far the curves are apart. */
async function compareCurves(data: string): Promise<string[]> {
  for (const device of ["cpu", "webgpu"]) await train(device, data);
  const [cpu, gpu] = [await stepRows("cpu"), await stepRows("webgpu")];
  const rows = cpu.map(({ step, loss }, i) => ({ step, loss, other: gpu[i].loss }));
  const shown = rows.filter(({ step }) => step <= 3 || step % 20 === 0);
  const cells = shown.map(({ step, loss, other }) => [step, loss.toFixed(4), other.toFixed(4)].map(String));
  for (const line of formatTable([["step", "cpu", "webgpu"], ...cells], "rrr")) console.log(line);
  const worst = Math.max(...rows.map(({ loss, other }) => Math.abs(loss - other)));
  const mean = (pick: (row: typeof rows[0]) => number) => rows.slice(-20).reduce((sum, row) => sum + pick(row), 0) / 20;
  const end = Math.abs(mean(({ loss }) => loss) - mean(({ other }) => other));
  console.log(`curves differ by ${worst.toFixed(4)} at most, by ${end.toFixed(4)} in the mean of the last 20 steps\n`);
  return [
    ...(worst > CURVE.step ? [`losses differ by ${worst} at a step`] : []),
    ...(end > CURVE.end ? [`losses differ by ${end} at the end`] : []),
  ];
}

async function soakSteps(data: string): Promise<string[]> {
  await prepareStore({ inputs: data, tokenizer: byteTokenizer(), seq: 16, out: "store" });
  const makeBackend = () => webgpuBackend();
  const samples = await soak({ store: "store", steps: SOAK_STEPS, every: 100, threads: 1, makeBackend });
  for (const line of soakLines(samples)) console.log(line);
  return driftsOf(samples, BYTES_A_STEP);
}

/** Backends that come and go: the second half must find the process as the first left it. */
async function comeAndGo(): Promise<string[]> {
  const sizes: number[] = [];
  for (let i = 0; i < BACKENDS; i++) {
    using backend = await webgpuBackend();
    using x = fill(backend, i, [1 << 18]);
    const [value] = await x.read();
    if (value !== i) throw new Error(`backend ${i} reads ${value}`);
    if (i % 50 === 49) sizes.push(Deno.memoryUsage().rss);
  }
  const growth = (sizes[sizes.length - 1] - sizes[sizes.length >> 1]) / (BACKENDS / 2);
  console.log(`${BACKENDS} backends: RSS ${sizes.map(formatBytes).join(", ")}; ${growth.toFixed(0)} bytes each`);
  return growth > BYTES_A_BACKEND ? [`a backend leaves ${growth.toFixed(0)} bytes behind`] : [];
}

async function all(): Promise<number> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-webgpu-" });
  const before = Deno.cwd();
  try {
    Deno.chdir(folder);
    const types = await new Deno.Command(Deno.execPath(), { args: ["types"] }).output();
    await Deno.writeFile("types.txt", types.stdout);
    {
      using backend = await webgpuBackend();
      using cpu = await cpuBackend({ blas: "off" });
      console.log(`webgpu: ${backend.adapter.name}; cpu: ${cpu.kernelPath}, ${cpu.threads} threads\n`);
    }
    const faults = [...await soakSteps("types.txt"), ...await comeAndGo(), ...await compareCurves("types.txt")];
    for (const fault of faults) console.error(`Cannot pass: ${fault}`);
    return faults.length > 0 ? 1 : 0;
  } finally {
    Deno.chdir(before);
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.exit(await all());
