/** Fine-tuning of a vision transformer on a GPU, or what emulates one: the losses of the CPU, whatever is trained. */
import assert from "node:assert/strict";
import { findGpu } from "./device.ts";
import { writeTinyImages, writeTinyVit } from "./testing/tiny_images.ts";
import { stepRows, Workspace } from "./testing/workspace.ts";

const found = await findGpu().catch(() => undefined);
if (!found && Deno.env.get("LOWRANK_REQUIRE_WEBGPU") === "1") throw new Error("LOWRANK_REQUIRE_WEBGPU=1: no adapter");

Deno.test({
  name: `finetune() on webgpu gives the losses of the CPU on images (${found?.name ?? "there is no adapter"})`,
  ignore: !found,
  fn: async () => {
    await using workspace = await Workspace.open();
    await writeTinyVit("base");
    await writeTinyImages("stripes.zarr", { count: 36 });
    for (const method of ["vpt-deep --prompts 3 --prompt-project 4", "lora --rank 2", "full"]) {
      for (const device of ["cpu", "webgpu"]) {
        const command = `finetune --model base --task images --data stripes.zarr --method ${method} --lr 0.005 ` +
          `--epochs 2 --batch 12 --crop-padding 1 --device ${device} --log-every 2 --out ${device}-${method[0]}`;
        const { code, err } = await workspace.run(...command.split(" "));
        assert.equal(code, 0, err);
        assert.match(err, device === "cpu" ? /^device +wasm/m : /^device +webgpu /m);
      }
      const [expected, actual] = [await stepRows(`cpu-${method[0]}`), await stepRows(`webgpu-${method[0]}`)];
      assert.equal(actual.length, 4);
      actual.forEach(({ loss, gradNorm }, i) => {
        assert.ok(Math.abs(loss - expected[i].loss) < 2e-4, `${method}, step ${i + 1}: ${loss}, ${expected[i].loss}`);
        assert.ok(Math.abs(gradNorm! / expected[i].gradNorm! - 1) < 1e-3, `${method}, step ${i + 1}: norm ${gradNorm}`);
      });
    }
  },
});
