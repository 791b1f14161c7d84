/**
 * Images of 14 x 14 whose classes are told in seconds, and a ViT of 8,000 weights for them: one kind of stripes each,
 * behind noise. Only tests import this.
 */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { prepareImages } from "../../data/mod.ts";
import { idxBytes } from "../../data/testing/image_fixture.ts";
import { initVit, makeVitConfig, saveVit, type VitConfig } from "../../models/mod.ts";
import { writeFolderDurably } from "../durable.ts";
import { type Outcome, Workspace } from "./workspace.ts";

/** What the classes are called. */
export const STRIPES = ["0", "1", "2"] as const;

/** A configuration with enough spread in its first weights for frozen layers to tell stripes apart. */
export function tinyVitConfig(overrides: Partial<VitConfig> = {}): VitConfig {
  return makeVitConfig(
    { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 3, num_attention_heads: 2 },
    { image_size: 14, patch_size: 7, num_channels: 1, initializer_range: 0.15, ...overrides },
  );
}

/** Writes a model folder with drawn weights. */
export async function writeTinyVit(folder: string, config: VitConfig = tinyVitConfig()): Promise<void> {
  using params = initVit(loopsBackend(), config, { seed: 1 });
  await writeFolderDurably(".", folder, (writer) => saveVit(writer, params, config));
}

/** Pixels of image `i` of a class: stripes down, across or slanting. */
function stripes(label: number, i: number, side: number): number[] {
  let state = 7 * i + label + 1;
  return Array.from({ length: side * side }, (_, place) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const [y, x] = [Math.floor(place / side), place % side];
    const isBright = [x, y, x + y][label] % 7 < 3;
    return (isBright ? 130 : 10) + (state >>> 24) % 110;
  });
}

/** Writes `images.idx` and `labels.idx`, and makes the store of them, a fifth held out. */
export async function writeTinyImages(store: string, { count = 90, side = 14 } = {}): Promise<void> {
  const labels = Array.from({ length: count }, (_, i) => i % 3);
  await Deno.writeFile("images.idx", idxBytes([count, side, side], labels.flatMap((one, i) => stripes(one, i, side))));
  await Deno.writeFile("labels.idx", idxBytes([count], labels));
  await prepareImages({ inputs: { images: "images.idx", labels: "labels.idx" }, out: store, holdOut: 1 / 3 });
}

/** A workspace with the tiny ViT in `base` and images in `stripes.zarr`. */
export async function openStripes(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyVit("base");
  await writeTinyImages("stripes.zarr");
  return workspace;
}

/** The beginning of a command that fine-tunes the one on the others. */
export const FINETUNE_STRIPES = "finetune --model base --task images --data stripes.zarr --batch 12";

/** Runs a command on the CPU; it must come to a good end. */
export async function runOnCpu(workspace: Workspace, command: string): Promise<Outcome> {
  const outcome = await workspace.run(...`${command} --device cpu --threads 1 --blas off`.split(" "));
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}
