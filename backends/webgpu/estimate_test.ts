/** Estimates of time follow a device, and portions stay short. */
import assert from "node:assert/strict";
import { Estimate, type Work } from "./estimate.ts";
import { webgpuBackend } from "./mod.ts";
import { webgpuTest } from "./testing.ts";

Deno.test("Estimate finds its rates from mixed work, and leaves what is too short to measure", () => {
  const estimate = new Estimate();
  const of = (bytes: number, flops: number, dispatches: number) => ({ bytes, flops, dispatches });
  const before = estimate.seconds(of(1e9, 1e9, 10));
  estimate.learn(of(1e9, 1e9, 10), 0.01);
  assert.equal(estimate.seconds(of(1e9, 1e9, 10)), before);
  // a small discrete GPU
  const took = ({ bytes, flops, dispatches }: Work) => bytes / 2e11 + flops / 4e12 + dispatches * 5e-6;
  for (let i = 0; i < 60; i++) {
    for (const work of [of(1e11, 1e10, 10), of(1e9, 1e12, 10), of(1e9, 1e10, 1e5)]) estimate.learn(work, took(work));
  }
  for (const work of [of(1e11, 0, 0), of(0, 1e12, 0), of(4e10, 3e11, 1000)]) {
    const ratio = estimate.seconds(work) / took(work);
    assert.ok(ratio > 0.8 && ratio < 1.25, `${JSON.stringify(work)}: ${ratio}`);
  }
});

webgpuTest("work of a second is submitted in portions of at most a tenth, once its speed is known", async () => {
  using backend = await webgpuBackend();
  const size = 1 << 22;
  const make = () => ({
    buffer: backend.alloc(4 * size),
    offset: 0,
    shape: [size],
    strides: [1],
    dtype: "f32" as const,
  });
  const [x, y] = [make(), make()];
  const round = async (times: number) => {
    const [began, before] = [performance.now(), backend.counters().submissions];
    for (let i = 0; i < times; i++) backend.kernels.unary("exp", i % 2 ? x : y, i % 2 ? y : x);
    await backend.read(x.buffer, 0, 4);
    return { seconds: (performance.now() - began) / 1000, submissions: backend.counters().submissions - before };
  };
  backend.kernels.fill(0, y);
  await round(4);
  let { seconds } = await round(20);
  const times = Math.ceil(20 / seconds); // about a second's worth
  for (let i = 0; i < 3; i++) await round(Math.ceil(times / 4));
  const last = await round(times);
  seconds = last.seconds;
  assert.ok(last.submissions >= seconds / 0.1, `${seconds} s in ${last.submissions} submissions`);
});
