/** Bad input to training, fine-tuning and evaluation on images: one clear line, and nothing written. */
import { prepareImages } from "../data/mod.ts";
import { editJson, flipByte, makeStore, testBadInputs } from "./testing/bad_input.ts";
import { tinyVitConfig, writeTinyImages, writeTinyVit } from "./testing/tiny_images.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");

async function makeStripes(): Promise<void> {
  await writeTinyVit("base");
  await writeTinyImages("stripes.zarr", { count: 30 });
}

/** A command line for the stripes with more flags, into the folder `run`. */
function finetune(...flags: readonly string[]): string[] {
  const usual = "--model base --task images --data stripes.zarr --out run".split(" ");
  return ["finetune", ...usual, ...DEVICE, ...flags];
}

function train(...flags: readonly string[]): string[] {
  return [
    "train",
    "--model",
    "vit-0.2m",
    "--data",
    "stripes.zarr",
    "--steps",
    "2",
    "--out",
    "run",
    ...DEVICE,
    ...flags,
  ];
}

testBadInputs([
  {
    when: "images come without a store",
    make: makeStripes,
    argv: ["finetune", "--model", "base", "--task", "images", ...DEVICE],
    message: /^Cannot train on images: give one store of images, --data STORE: got none$/,
  },
  {
    when: "the store of images is not there",
    make: makeStripes,
    argv: ["finetune", "--model", "base", "--task", "images", "--data", "nowhere", ...DEVICE],
    message: /^Cannot train on the images of nowhere: there is no such folder$/,
  },
  {
    when: "images were not prepared",
    make: makeStripes,
    argv: ["finetune", "--model", "base", "--task", "images", "--data", "images.idx", ...DEVICE],
    message:
      /^Cannot train on the images of images\.idx: it is no store of images; deno task prepare --images images\.idx /,
  },
  {
    when: "a store of tokens is taken for images",
    make: async () => {
      await makeStripes();
      await makeStore();
    },
    argv: ["finetune", "--model", "base", "--task", "images", "--data", "store", ...DEVICE],
    message: /^Cannot train on the images of store: it is a store of tokens$/,
  },
  {
    when: "no images are held out",
    make: async () => {
      await makeStripes();
      await prepareImages({ inputs: { images: "images.idx", labels: "labels.idx" }, out: "all.zarr", holdOut: 0 });
    },
    argv: ["finetune", "--model", "base", "--task", "images", "--data", "all.zarr", ...DEVICE],
    message: /^Cannot evaluate on the images of all\.zarr: it has no validation split; prepare holds images out /,
  },
  {
    when: "images have other channels than the model",
    make: async () => {
      await makeStripes();
      await writeTinyVit("base", tinyVitConfig({ num_channels: 3 }));
    },
    argv: finetune(),
    message: /^Cannot use base on images of 1 channel: it takes 3; prepare --channels 3 makes such a store$/,
  },
  {
    when: "patches do not fill the images",
    make: makeStripes,
    argv: finetune("--crop", "12"),
    message: /^Cannot build ViT: patches of 7 pixels do not fill images of 12 x 12$/,
  },
  {
    when: "a crop is larger than the images",
    make: makeStripes,
    argv: finetune("--crop", "21"),
    message: /^Cannot transform images: a crop must fit into the image and its padding of 0, got 21 x 21 of 14 x 14$/,
  },
  {
    when: "prompts are asked of a RoBERTa",
    make: async () => {
      await writeTinyRoberta("roberta");
      await writeToyTask("task");
    },
    argv: ["finetune", "--model", "roberta", "--task", "sst2", "--data", "task", "--method", "vpt-deep", ...DEVICE],
    message: /^Cannot fine-tune with --method vpt-deep on sst2: prompts are for a ViT, --task images$/,
  },
  {
    when: "a head is asked of a LLaMA that answers",
    argv: ["finetune", "--model", "tiny", "--task", "sft", "--data", "chat.jsonl", "--method", "linear", ...DEVICE],
    message:
      /^Cannot fine-tune with --method linear on sft: it trains a classifier's head, and a LLaMA that answers has /,
  },
  {
    when: "images are told to a LLaMA",
    make: makeStripes,
    argv: finetune("--model", "tiny"),
    message: /^Cannot load config\.json: expected model_type "vit", got "llama"$/,
  },
  {
    when: "a GLUE task is told to mirror images",
    argv: ["finetune", "--model", "tiny", "--task", "sst2", "--data", "task", "--flip", ...DEVICE],
    message: /^Cannot use --flip with --task sst2: it is for images$/,
  },
  {
    when: "images are to be cut as text is",
    argv: ["finetune", "--model", "tiny", "--task", "images", "--data", "task", "--max-length", "9", ...DEVICE],
    message: /^Cannot use --max-length with --task images: images have no text to cut$/,
  },
  {
    when: "prompts are to be trained beside weights that are drawn",
    make: makeStripes,
    argv: finetune("--model", "vit-0.2m", "--method", "vpt-deep"),
    message:
      /^Cannot fine-tune vit-0\.2m with --method vpt-deep: its weights are drawn, and would stay so; train it first: /,
  },
  {
    when: "a weight of the ViT is missing",
    make: async () => {
      await makeStripes();
      await editJson("base/config.json", (json) => json.num_hidden_layers = 4);
    },
    argv: finetune(),
    message: /^Cannot load weights of base: expected \d+ tensors: got 16 missing /,
  },
  {
    when: "a folder's images are normalised in a way that is not implemented",
    make: async () => {
      await makeStripes();
      await Deno.writeTextFile("base/preprocessor_config.json", JSON.stringify({ do_rescale: false }));
    },
    argv: finetune(),
    message: /^Cannot use base\/preprocessor_config\.json: do_rescale = false is not implemented$/,
  },
  {
    when: "there is no such ViT",
    make: makeStripes,
    argv: train("--model", "vit-huge"),
    message: /^Cannot find model "vit-huge": expected one of vit-0\.2m, /,
  },
  {
    when: "a ViT is to be trained on text",
    argv: ["train", "--model", "vit-0.2m", "--data", "corpus.txt", "--steps", "2", "--out", "run", ...DEVICE],
    message: /^Cannot train on the images of corpus\.txt: it is no store of images; deno task prepare --images /,
  },
  {
    when: "a ViT is given the length of sequences",
    make: makeStripes,
    argv: train("--seq", "64"),
    message: /^Cannot use --seq to train vit-0\.2m: a ViT has no use for it$/,
  },
  {
    when: "a LLaMA is told to mirror images",
    argv: ["train", "--model", "tiny", "--data", "corpus.txt", "--flip", "--steps", "2", "--out", "run", ...DEVICE],
    message: /^Cannot use --flip to train tiny: it is for images, and a ViT$/,
  },
  {
    when: "train is to go on with a run of fine-tuning",
    make: async () => {
      await Deno.mkdir("other");
      await Deno.writeTextFile(
        "other/config.json",
        JSON.stringify({ run: { model: "base", task: "images", epochs: 3 } }),
      );
      await Deno.writeTextFile("other/.lock", "");
    },
    argv: ["train", "--resume", "other"],
    message: /^Cannot resume other: it is a fine-tuning run; deno task finetune --resume goes on with it$/,
  },
  {
    when: "the head to evaluate is for other classes",
    make: makeStripes,
    argv: ["eval", "--model", "base", "--task", "images", "--data", "stripes.zarr", ...DEVICE],
    message:
      /^Cannot evaluate base on the images of stripes\.zarr: its labels are LABEL_0, LABEL_1, the images' classes 0, 1, 2$/,
  },
  {
    when: "the adapter to evaluate is not there",
    make: makeStripes,
    argv: ["eval", "--model", "base", "--adapter", "x", "--task", "images", "--data", "stripes.zarr", ...DEVICE],
    message: /^Cannot read x: .*$/,
  },
  {
    when: "an image of the store is damaged",
    make: async () => {
      await makeStripes();
      await flipByte("stripes.zarr/train/images/c/0/0/0/0", 40);
    },
    argv: finetune(),
    message:
      /^Cannot read chunk 0 of shard "train\/images\/c\/0\/0\/0\/0" of store "stripes\.zarr": its checksum does not match/,
  },
]);
