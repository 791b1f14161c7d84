/** Fine-tuning of vision transformers: every method learns and leaves folders that load, and what stays frozen stays. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { backward, type HostArray, type Params, scope } from "../core/mod.ts";
import { prepareImages } from "../data/mod.ts";
import { type ServedRequest, withServer } from "../data/testing/store_fixture.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { loadPeft, loadVisualPrompts, loadVit, loadVitConfig } from "../models/mod.ts";
import { FileFolder } from "./files.ts";
import { completeFinetune, type Finetune } from "./finetune_options.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune } from "./finetune_setup.ts";
import { EpochBatches } from "./finetune_subject.ts";
import { memoryOutput } from "./log.ts";
import {
  FINETUNE_STRIPES,
  openStripes,
  runOnCpu,
  STRIPES,
  tinyVitConfig,
  writeTinyImages,
} from "./testing/tiny_images.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { fingerprint, Workspace } from "./testing/workspace.ts";
import { type ImageRows, imagesInOrder, openImages, readCrop, TrainingImages } from "./vision_data.ts";

/** Command lines by method, and what `eval` is given of the run. */
const LEARNING: Readonly<Record<string, readonly [flags: string, model: string]>> = {
  full: ["--lr 0.003 --epochs 6", "--model run"],
  galore: ["--rank 4 --scale 1 --lr 0.01 --epochs 6", "--model run"],
  lora: ["--rank 4 --lr 0.01 --epochs 8", "--model base --adapter run/best-adapter"],
  linear: ["--lr 0.02 --epochs 12", "--model base --adapter run/best-adapter"],
  "vpt-shallow": ["--prompts 4 --epochs 10", "--model base --adapter run/best-adapter"],
  "vpt-deep": ["--prompts 3 --prompt-project 6 --epochs 10", "--model base --adapter run/best-adapter"],
};

for (const [method, [flags, model]] of Object.entries(LEARNING)) {
  Deno.test(`finetune() learns to tell images and leaves what eval reads when the method is ${method}`, async () => {
    await using workspace = await openStripes();
    const before = await fingerprint("base");
    const { out, err } = await runOnCpu(workspace, `${FINETUNE_STRIPES} --method ${method} ${flags} --out run`);
    const [, said] = /^accuracy (\d\.\d+) at step \d+; trained parameters .*; images\/s \d/.exec(out)!;
    assert.ok(Number(said) > 0.9, out);
    assert.match(
      err,
      /note: the head of base, for LABEL_0, LABEL_1, is left aside: one for 3 classes is drawn from seed 1/,
    );
    assert.deepEqual(await fingerprint("base"), before);
    const json = await runOnCpu(workspace, `eval ${model} --task images --data stripes.zarr --json`);
    const measured = JSON.parse(json.out);
    assert.equal(measured.accuracy.toFixed(4), said);
    assert.deepEqual(measured.classes.map(({ name, images }: { name: string; images: number }) => [name, images]), [
      ...STRIPES.map((name) => [name, 10]),
    ]);
    assert.deepEqual(measured.confusion.flat().reduce((sum: number, count: number) => sum + count), 30);
  });
}

Deno.test("finetune() writes a folder for Hugging Face and a report with pictures and what is taken for what", async () => {
  await using workspace = await openStripes();
  await runOnCpu(workspace, `${FINETUNE_STRIPES} --epochs 0.3 --out run`);
  const config = JSON.parse(await Deno.readTextFile("run/best/config.json"));
  assert.deepEqual(config.architectures, ["ViTForImageClassification"]);
  assert.deepEqual(config.id2label, { "0": "0", "1": "1", "2": "2" });
  const processor = JSON.parse(await Deno.readTextFile("run/best/preprocessor_config.json"));
  assert.deepEqual(processor.size, { height: 14, width: 14 });
  assert.deepEqual([processor.image_mean, processor.image_std, processor.do_normalize], [[0.5], [0.5], true]);
  const report = await Deno.readTextFile("run/report.html");
  assert.match(
    report,
    /<h3>Wrong, the largest losses first<\/h3><div class="pictures"><figure class="wrong"><img src="data:/,
  );
  assert.match(report, /<title>0 taken for 1: \d+ of 10<\/title>/);
  assert.match(report, /img-src data:/);
});

Deno.test("finetune() resamples positions, and keeps a folder's normalisation, when images have another size", async () => {
  await using workspace = await openStripes();
  await writeTinyImages("larger.zarr", { side: 28, count: 30 });
  await Deno.writeTextFile("base/preprocessor_config.json", JSON.stringify({ image_mean: [0.4], image_std: [0.25] }));
  const larger = "finetune --model base --task images --data larger.zarr --epochs 0.5";
  const { err } = await runOnCpu(workspace, `${larger} --out run`);
  assert.match(err, /note: the positions of base, for images of 14 x 14, are resampled for 28 x 28/);
  assert.deepEqual((await loadVitConfig(new FileFolder("run/best"))).image_size, 28);
  const { image_mean, image_std } = JSON.parse(await Deno.readTextFile("run/best/preprocessor_config.json"));
  assert.deepEqual([image_mean, image_std], [[0.4], [0.25]]);
  const cropped = await runOnCpu(workspace, `${larger} --crop 14 --out cropped`);
  assert.doesNotMatch(cropped.err, /resampled/);
});

Deno.test("eval cuts images as the run did, and finetune() says so to Hugging Face, when it was given --crop", async () => {
  await using workspace = await openStripes();
  await writeTinyImages("larger.zarr", { side: 28, count: 30 });
  const cropped =
    "finetune --model base --task images --data larger.zarr --crop 14 --epochs 2 --batch 8 --method linear";
  const { out } = await runOnCpu(workspace, `${cropped} --out run`);
  const file = JSON.parse(await Deno.readTextFile("run/best/preprocessor_config.json"));
  assert.deepEqual([file.image_processor_type, file.do_resize, file.do_center_crop], [
    "DeiTImageProcessor",
    true,
    true,
  ]);
  assert.deepEqual([file.size, file.crop_size], [{ height: 28, width: 28 }, { height: 14, width: 14 }]);
  const [, said] = /^accuracy (\d\.\d+)/.exec(out)!;
  for (const [model, source] of [["run", "run/best"], ["base --adapter run/best-adapter", "run/best-adapter"]]) {
    const evaluated = await runOnCpu(workspace, `eval --model ${model} --task images --data larger.zarr`);
    assert.match(evaluated.out, new RegExp(`accuracy ${said},`));
    assert.match(
      evaluated.err,
      new RegExp(
        `^note: images are cut to 14 x 14 at their centre, as ${source}/preprocessor_config\\.json says$`,
        "m",
      ),
    );
    assert.doesNotMatch(evaluated.err, /resampled/);
  }
});

Deno.test("readCrop() cuts only images of the size that a folder resizes to", async () => {
  await using _ = await Workspace.open();
  const cropOf = async (json: unknown, side: number) => {
    await Deno.writeTextFile("preprocessor_config.json", JSON.stringify(json));
    return await readCrop(new FileFolder("."), { height: side, width: side });
  };
  const cut = { do_center_crop: true, size: 256, crop_size: 224 };
  assert.equal(await cropOf(cut, 256), 224);
  assert.equal(
    await cropOf({ ...cut, size: { height: 256, width: 256 }, crop_size: { height: 224, width: 224 } }, 256),
    224,
  );
  assert.equal(await cropOf(cut, 300), undefined);
  assert.equal(await cropOf({ ...cut, do_resize: false }, 300), 224);
  assert.equal(await cropOf({ ...cut, do_center_crop: false }, 256), undefined);
  assert.equal(await cropOf({ ...cut, crop_size: 256 }, 256), undefined);
  await assert.rejects(
    cropOf({ ...cut, crop_size: { shortest_edge: 224 } }, 256),
    /^SyntaxError: Cannot use \.\/preprocessor_config\.json: crop_size = .* is not implemented$/,
  );
});

Deno.test("finetune() notes that no file says how a store's images keep their aspect", async () => {
  await using workspace = await openStripes();
  const inputs = { images: "images.idx", labels: "labels.idx" };
  await prepareImages({ inputs, out: "cut.zarr", fit: "crop", size: 14 });
  const { err } = await runOnCpu(
    workspace,
    "finetune --model base --task images --data cut.zarr --epochs 0.1 --out run",
  );
  assert.match(
    err,
    /^note: the images of cut\.zarr keep their aspect \(--keep-aspect crop\), which preprocessor_config\.json cannot say: /m,
  );
});

Deno.test("images are read at a URL with its query string", async () => {
  await using workspace = await openStripes();
  const batching = { batch: 60, seed: 0, cropPadding: 0, flip: false, mean: 0.5, std: 0.5, tokens: 5 };
  const refuse = ({ search }: ServedRequest) => search === "?token=1" ? undefined : new Response(null, { status: 403 });
  await withServer(workspace.path, refuse, async (url) => {
    const images = await openImages([`${url}/stripes.zarr?token=1`], "read");
    using training = new TrainingImages(images, batching);
    for (const batches of [training.epoch(0, 0), imagesInOrder(images, "validation", batching)]) {
      const { value } = await batches.next();
      await batches.return();
      assert.ok((value as ImageRows).batch >= 30);
    }
  });
});

/** A run as the module's functions take it. */
function stripesRun(changes: Partial<Finetune>): Finetune {
  return completeFinetune({
    ...{ model: "base", task: "images", data: ["stripes.zarr"], batch: 12, device: "cpu", threads: 1, blas: "off" },
    ...changes,
  });
}

async function valuesOf(params: Params): Promise<Map<string, HostArray>> {
  const values = new Map<string, HostArray>();
  for (const [name, tensor] of params.entries()) values.set(name, (await tensor.read()).slice());
  return values;
}

/** Runs one step, and tells which weights backward gave a gradient. */
async function oneStep(setup: Awaited<ReturnType<typeof prepareFinetune>>): Promise<Set<string>> {
  const { subject, method, optimizer } = setup;
  const reached = new Set<string>();
  await using batches = new EpochBatches(subject, 0);
  const rows = await batches.next();
  {
    using _step = scope("step");
    const loss = subject.loss(method.view(), rows, { prompts: method.prompts });
    backward(loss, (name, gradient) => {
      reached.add(name);
      optimizer.stage(name, gradient);
    });
  }
  await optimizer.gradientNorm();
  optimizer.commit();
  return reached;
}

for (const method of ["vpt-shallow", "vpt-deep", "linear"] as const) {
  Deno.test(`prepareFinetune() gives a frozen ViT neither gradients nor state when the method is ${method}`, async () => {
    await using _ = await openStripes();
    using setup = await prepareFinetune(stripesRun({ method, prompts: 4 }), memoryOutput());
    const { base, method: { trained }, optimizer } = setup;
    const before = await valuesOf(base);
    const moved = await valuesOf(trained);
    const reached = await oneStep(setup);
    const [layers, width, classes] = [3, 16, 3];
    const prompts = { "vpt-shallow": 4 * width, "vpt-deep": layers * 4 * width, linear: 0 }[method];
    assert.equal(trained.size, prompts + classes * (width + 1));
    assert.deepEqual([...reached].sort(), trained.names().sort());
    assert.deepEqual([...optimizer.snapshot().leaves.keys()].sort(), trained.names().sort());
    for (const [name, values] of await valuesOf(trained)) assert.notDeepEqual(values, moved.get(name), name);
    for (const [name, values] of await valuesOf(base)) {
      if (method === "linear" && trained.has(name)) continue;
      assert.deepEqual(values, before.get(name), name);
    }
  });
}

Deno.test("prepareFinetune() gives every method the same head to begin with", async () => {
  await using _ = await openStripes();
  const losses = [];
  for (const method of ["full", "linear", "lora"] as const) {
    using setup = await prepareFinetune(stripesRun({ method }), memoryOutput());
    const { scores, loss } = await setup.subject.measure(setup.method.view());
    losses.push([loss, scores.accuracy]);
  }
  assert.deepEqual(losses[1], losses[0]);
  assert.deepEqual(losses[2], losses[0]);
});

Deno.test("runFinetune() frees everything on images", async () => {
  await using _ = await openStripes();
  using setup = await prepareFinetune(stripesRun({ method: "vpt-deep", epochs: 0.3, out: "run" }), memoryOutput());
  await assertNoLeak("runFinetune", setup.backend, () => runFinetune(setup, {}, memoryOutput()));
});

Deno.test("openVision() gives the same batches from any place on, and varies images only to train", async () => {
  await using _ = await openStripes();
  using setup = await prepareFinetune(stripesRun({ cropPadding: 2, flip: true }), memoryOutput());
  const { subject } = setup;
  const take = async (start: number, count: number) => {
    await using batches = new EpochBatches(subject, start);
    const taken = [];
    for (let i = 0; i < count; i++) taken.push(await batches.next() as ImageRows);
    return taken.map(({ rows, labels, pixels }) => [[...rows], [...labels], [...pixels]]);
  };
  const all = await take(0, 12);
  assert.deepEqual(await take(7, 5), all.slice(7));
  const [epochs, places] = [2, 60];
  const seen = all.slice(0, subject.batchesAnEpoch * epochs).flatMap(([rows]) => rows);
  assert.equal(seen.length, epochs * places);
  assert.deepEqual(new Set(seen.slice(0, places)), new Set(seen.slice(places)));
  const [once, again] = await Promise.all([1, 2].map(() => subject.measure(setup.method.view())));
  assert.deepEqual([once.loss, once.scores], [again.loss, again.scores]);
});

Deno.test("finetune() leaves prompts and adapters that the models package reads", async () => {
  await using workspace = await openStripes();
  await runOnCpu(workspace, `${FINETUNE_STRIPES} --method vpt-deep --prompts 2 --epochs 0.3 --out prompts`);
  await runOnCpu(workspace, `${FINETUNE_STRIPES} --method lora --rank 2 --epochs 0.3 --no-merge --out lora`);
  using backend = loopsBackend();
  using task = await loadVisualPrompts(backend, new FileFolder("prompts/best-adapter"), tinyVitConfig());
  assert.deepEqual([task.labels, task.baseModel, task.prompts], [[...STRIPES], "base", {
    deep: true,
    numTokens: 2,
    dropout: 0,
  }]);
  const { params } = await loadVit(backend, new FileFolder("base"), { head: "new", headSeed: 1, config: task.config });
  using base = params;
  using lora = await loadPeft(new FileFolder("lora/best-adapter"), base);
  assert.deepEqual([lora.taskType, lora.lora.targets, lora.lora.modulesToSave], [undefined, ["query", "value"], [
    "classifier",
  ]]);
  assert.deepEqual([...Deno.readDirSync("prompts")].map(({ name }) => name).filter((name) => name === "best"), []);
});

Deno.test("finetune() trains the head of a RoBERTa alone when the method is linear", async () => {
  await using workspace = await Workspace.open();
  await writeTinyRoberta("roberta");
  await writeToyTask("task");
  const { out } = await runOnCpu(
    workspace,
    "finetune --model roberta --task sst2 --data task --method linear --epochs 6 --out run",
  );
  assert.ok(Number(/^accuracy (\d\.\d+)/.exec(out)![1]) > 0.6, out);
  assert.match(out, /trained parameters 1,122 /);
  const evaluated = await runOnCpu(workspace, "eval --model run --task sst2 --data task");
  assert.match(evaluated.out, new RegExp(`accuracy ${/^accuracy (\S+)/.exec(out)![1]},`));
});

Deno.test("plan counts what prompts are of ViT-B/16, and what training a ViT takes", async () => {
  await using workspace = await Workspace.open();
  const planned = async (flags: string) => {
    const { code, out, err } = await workspace.run(
      "plan",
      ...flags.split(" "),
      "--device",
      "cpu",
      "--batch",
      "2",
      "--json",
    );
    assert.equal(code, 0, err);
    return JSON.parse(out);
  };
  const deep = await planned("--model vit-base-16 --method vpt-deep --prompts 50");
  const head = 2 * 769;
  assert.equal(deep.trainedParameters, 460_800 + head);
  assert.equal((100 * (deep.trainedParameters - head) / (deep.parameters - head)).toFixed(3), "0.537");
  assert.deepEqual([deep.adapterBytes, deep.gradientBytes], [4 * deep.trainedParameters, 4 * deep.trainedParameters]);
  assert.deepEqual([deep.optimizerBytes, deep.task], [8 * deep.trainedParameters, "images"]);
  const whole = await planned("--model vit-tiny-16 --optimizer adamw");
  assert.deepEqual([whole.trainedParameters, whole.optimizerBytes], [whole.parameters, 8 * whole.parameters]);
});
