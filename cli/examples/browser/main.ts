/**
 * A page that trains a tiny LLaMA with GaLore on WebGPU, and draws its loss.
 *
 *     deno task example:browser
 *
 * `?auto` starts at once, `?steps=N` trains for N steps. What it trains is in `training.ts`.
 */
import { findAdapter, webgpuBackend } from "../../../backends/webgpu/mod.ts";
import { type Backend, formatBytes, type Params } from "../../../core/mod.ts";
import { PLOT_CSS, plotSvg, type Point } from "../../report_plot.ts";
import { makeModel, type Progress, recite, train } from "./training.ts";

const query = new URLSearchParams(location.search);
const STEPS = Number(query.get("steps") ?? 300);
/** Steps between two looks at the losses. */
const EVERY = 10;
const PROMPT = "The ";

const button = element("start") as HTMLButtonElement;
let stopped = false;

function element(id: string): HTMLElement {
  return document.getElementById(id)!;
}

function say(id: string, text: string): void {
  element(id).textContent = text;
}

/** Losses of single steps, pale, and the mean of the last few. */
function draw(losses: readonly number[]): void {
  const points = losses.map((loss, i): Point => [i + 1, loss]);
  const means = losses.map((_, i): Point => [i + 1, meanOf(losses.slice(Math.max(0, i + 1 - EVERY), i + 1))]);
  element("plot").innerHTML = plotSvg({
    series: [
      { name: "each step", points, style: { color: 1, quiet: true } },
      { name: `mean of the last ${EVERY}`, points: means, style: { color: 1, width: 2.4 } },
    ],
    xLabel: "step",
    yLabel: "loss, nats a byte",
    title: "Loss of the model in this page",
    width: 800,
    height: 320,
  });
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function show({ step, losses, tokensPerSecond, bytesInUse }: Progress): void {
  say("step", `${step} of ${STEPS}`);
  say("loss", meanOf(losses).toFixed(3));
  say("speed", Math.round(tokensPerSecond).toLocaleString("en"));
  say("memory", formatBytes(bytesInUse));
}

async function run(): Promise<void> {
  using backend = await webgpuBackend();
  using params = makeModel(backend);
  say("weights", params.size.toLocaleString("en"));
  say("status", "Training; the first steps compile the kernels.");
  const losses: number[] = [];
  for await (const progress of train(backend, params, { steps: STEPS, every: EVERY })) {
    losses.push(...progress.losses);
    show(progress);
    draw(losses);
    say("status", "Training.");
    if (stopped) break;
  }
  say("status", "Writing.");
  await write(backend, params);
  const last = meanOf(losses.slice(-EVERY));
  say("status", `Done: loss ${losses[0].toFixed(3)} -> ${last.toFixed(3)} in ${losses.length} steps.`);
}

async function write(backend: Backend, params: Params): Promise<void> {
  const sample = element("sample");
  const prompt = document.createElement("b");
  prompt.textContent = PROMPT;
  sample.replaceChildren(prompt);
  sample.classList.remove("soft");
  for await (const text of recite(backend, params, PROMPT, 160)) sample.append(text);
}

async function start(): Promise<void> {
  stopped = false;
  button.textContent = "Stop";
  button.onclick = () => stopped = true;
  document.body.dataset.state = "training";
  element("status").classList.remove("bad");
  try {
    await run();
    document.body.dataset.state = "done";
  } catch (error) {
    document.body.dataset.state = "failed";
    element("status").classList.add("bad");
    say("status", `Cannot go on: ${(error as Error).message}`);
    console.error(error);
  }
  button.textContent = "Train again";
  button.onclick = start;
}

document.head.append(Object.assign(document.createElement("style"), { textContent: PLOT_CSS }));
draw([]);
const adapter = await findAdapter();
if (adapter) {
  say("adapter", adapter.name + (adapter.isSoftware ? " (software)" : ""));
  say("status", "Takes a minute or so.");
  button.disabled = false;
  button.onclick = start;
  if (query.has("auto")) await start();
} else {
  document.body.dataset.state = "failed";
  say("adapter", "none");
  say(
    "status",
    "This browser offers no WebGPU adapter, so nothing can be trained here: try a current Chrome, Edge or Firefox, " +
      "or run `deno task train`, which is happy with a CPU.",
  );
}
