/**
 * `deno task bench`: matrix products and whole training steps beside the peers, in turn, in one run. Prints ratios.
 * A peer that is not installed is named and left out.
 */
import { formatTable } from "../log.ts";

const here = new URL("./", import.meta.url);
const python = "/usr/bin/python3";

/** The last line of a command's output as JSON; undefined (with the reason on stderr) when it fails. */
async function measure(what: string, command: string, args: string[]): Promise<Record<string, number> | undefined> {
  try {
    const { code, stdout, stderr } = await new Deno.Command(command, { args, cwd: here }).output();
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    if (code === 0) return JSON.parse(lines[lines.length - 1]);
    console.error(`${what}: left out: ${new TextDecoder().decode(stderr).trim().split("\n").pop()}`);
  } catch (error) {
    console.error(`${what}: left out: ${(error as Error).message}`);
  }
  return undefined;
}

const deno = (file: string, ...args: string[]) =>
  measure(`${file} ${args.join(" ")}`, Deno.execPath(), ["run", "-A", "--no-lock", file, ...args]);
const torch = (file: string, ...args: string[]) => measure(`${file} ${args.join(" ")}`, python, [file, ...args]);

async function torchMatmul(n: number): Promise<Record<string, number> | undefined> {
  return await measure(`PyTorch matmul ${n}`, python, [
    "-c",
    `import os,json,time,statistics
os.environ["OMP_WAIT_POLICY"]="passive";os.environ["OMP_NUM_THREADS"]=os.environ["OPENBLAS_NUM_THREADS"]="2"
import torch
torch.set_num_threads(2)
a=torch.full((${n},${n}),1.5);b=torch.full((${n},${n}),0.5);ts=[]
for i in range(${n <= 512 ? 65 : 25}):
    t=time.perf_counter();c=a@b;ts.append(time.perf_counter()-t)
ts=sorted(ts[5:]);r=lambda t:2*${n}**3/t/1e9
print(json.dumps({"median":r(statistics.median(ts)),"best":r(ts[0])}))`,
  ]);
}

const ratio = (a: number | undefined, b: number | undefined) => a && b ? (a / b).toFixed(2) : "-";
const figure = (value: number | undefined, digits = 1) => value === undefined ? "-" : value.toFixed(digits);

async function matmuls(): Promise<void> {
  const rows = [["matmul f32, 2 threads", "WASM", "jax-js wasm", "ratio", "OpenBLAS", "PyTorch", "ratio"]];
  for (const n of [512, 1024]) {
    const wasm = await deno("matmul_speed.ts", "lowrank", `${n}`);
    const jax = await deno("matmul_speed.ts", "jax-js", `${n}`);
    const blas = await deno("matmul_speed.ts", "lowrank-blas", `${n}`);
    const peer = await torchMatmul(n);
    rows.push([
      `${n} x ${n}, median GFLOP/s`,
      figure(wasm?.median),
      figure(jax?.median),
      ratio(wasm?.median, jax?.median),
      figure(blas?.median),
      figure(peer?.median),
      ratio(blas?.median, peer?.median),
    ]);
  }
  for (const line of formatTable(rows, "lrrrrrr")) console.log(line);
}

async function trainings(): Promise<void> {
  const rows = [[
    "training step, batch 8 x 256",
    "projected",
    "PyTorch tok/s",
    "OpenBLAS",
    "ratio",
    "WASM",
    "ratio",
    "bases s",
    "PyTorch SVD s",
  ]];
  for (
    const [config, vocab, rank] of [["llama-9m", "32000", "32"], ["llama-20m", "32000", "64"], [
      "llama-60m",
      "4096",
      "128",
    ]]
  ) {
    const common = [
      "--config",
      config,
      "--vocab",
      vocab,
      "--rank",
      rank,
      "--optimizer",
      "galore",
      "--threads",
      "2",
      "--steps",
      "7",
    ];
    const peer = await torch("torch_train.py", ...common, "--heap", "reuse");
    const blas = await deno("train_steps.ts", ...common, "--blas", "require");
    const wasm = await deno("train_steps.ts", ...common, "--blas", "off");
    rows.push([
      `${config}, vocabulary ${vocab}, GaLore rank ${rank}`,
      `${(100 * (wasm?.projectedShare ?? blas?.projectedShare ?? 0)).toFixed(0)}%`,
      figure(peer?.tokens_per_s, 0),
      figure(blas?.tokens_per_s, 0),
      ratio(blas?.tokens_per_s, peer?.tokens_per_s),
      figure(wasm?.tokens_per_s, 0),
      ratio(wasm?.tokens_per_s, peer?.tokens_per_s),
      `${figure(blas?.refresh_s, 2)} / ${figure(wasm?.refresh_s, 2)}`,
      figure(peer?.svd_s_first_step, 2),
    ]);
  }
  for (const line of formatTable(rows, "lrrrrrrrr")) console.log(line);
}

await matmuls();
console.log();
await trainings();
