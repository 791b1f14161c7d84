/** Kernels at the shapes of llama-60m (batch 8, 256 tokens), on all threads. `deno bench -A backends/cpu`. */
import { loopKernels } from "./loops/mod.ts";
import { keyOf, normal, randomBits } from "../../core/random.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { wasmKernels } from "./wasm_kernels.ts";
import { TestDevice, view } from "./wasm_testing.ts";

const device = await TestDevice.pool();
const kernels = wasmKernels(device, loopKernels((buffer, dtype) => device.memory.view(buffer, dtype)));
const randn = (shape: Shape, seed = 1) => device.operand(shape, normal(keyOf(seed), sizeOf(shape)));

const wide = randn([2048, 1376]);
const other = randn([2048, 1376], 2);
const wideOut = device.operand([2048, 1376]);
for (const op of ["exp", "log", "tanh", "erf", "sqrt", "neg"] as const) {
  Deno.bench(`unary ${op} [2048, 1376]`, () => kernels.unary(op, wide, wideOut));
}

const row = view(randn([1376]), [2048, 1376], [0, 1]);
const column = view(randn([2048]), [2048, 1376], [1, 0]);
const scalar = view(randn([1]), [2048, 1376], [0, 0]);
for (const [name, b] of Object.entries({ other, row, column, scalar })) {
  Deno.bench(`binary add [2048, 1376] and ${name}`, () => kernels.binary("add", wide, b, wideOut));
}
Deno.bench("addInto [2048, 1376]", () => kernels.addInto(wideOut, wide, { rounding: "nearest" }));
Deno.bench("fill [2048, 1376]", () => kernels.fill(0, wideOut));

const heads = randn([8, 256, 8, 64]);
const swapped = device.operand([8, 8, 256, 64]);
Deno.bench("copyStrided [8, 256, 8, 64] to [8, 8, 256, 64]", () => {
  kernels.copyStrided(view(heads, [8, 8, 256, 64], [131072, 64, 512, 1]), swapped);
});
Deno.bench("copyStrided [2048, 1376] transposed", () => {
  kernels.copyStrided(view(wide, [1376, 2048], [1, 1376]), view(wideOut, [1376, 2048], [2048, 1]));
});

const all = device.operand([]);
const rows = device.operand([2048]);
const columns = device.operand([1376]);
const places = device.operand([2048], undefined, "u32");
const flat = view(wide, [sizeOf(wide.shape)], [1]);
Deno.bench("reduce sum of all of [2048, 1376]", () => kernels.reduce("sum", flat, 1, all));
Deno.bench("reduce sum of rows of [2048, 1376]", () => kernels.reduce("sum", wide, 1, rows));
Deno.bench("reduce sum of columns of [2048, 1376]", () => {
  kernels.reduce("sum", view(wide, [1376, 2048], [1, 1376]), 1, columns);
});
Deno.bench("reduce max of rows of [2048, 1376]", () => kernels.reduce("max", wide, 1, rows));
Deno.bench("reduce argmax of rows of [2048, 1376]", () => kernels.reduce("argmax", wide, 1, places));

const [V, N, D] = [32_000, 2048, 512];
const table = randn([V, D]);
const indices = device.operand([N], randomBits(keyOf(3), N).map((word) => word % V), "i32");
const picked = device.operand([N, D]);
const gradient = device.operand([V, D]);
Deno.bench("takeRows [32000, 512] by [2048]", () => kernels.takeRows(table, indices, picked));
Deno.bench("scatterAddRows [2048, 512] to [32000, 512]", () => kernels.scatterAddRows(picked, indices, gradient));

const words = device.operand([2048, 1376], undefined, "u32");
Deno.bench("randomBits [2048, 1376]", () => kernels.randomBits([1, 2], words));
