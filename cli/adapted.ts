/** A model with an adapter of PEFT's files on it, as `eval` and `generate` see it. */
import type { Params, ParamsView } from "../core/mod.ts";
import { loadPeft, withLora } from "../models/mod.ts";
import { FileFolder } from "./files.ts";

/** A model's weights as they are seen. */
export interface AdaptedModel extends Disposable {
  readonly view: ParamsView;
}

/**
 * The weights, with the adapter of a folder on them where one is named. Takes over the weights.
 *
 * @throws as `loadPeft`: for an adapter of another model, or one with a number that is not finite
 */
export async function openAdapted(
  params: Params,
  adapter: string | undefined,
  modelType: "roberta" | "llama",
): Promise<AdaptedModel> {
  if (adapter === undefined) return { view: params, [Symbol.dispose]: () => params.dispose() };
  const parts = new DisposableStack();
  parts.use(params);
  try {
    const { params: factors, lora } = parts.use(await loadPeft(new FileFolder(adapter), params, { modelType }));
    return { view: withLora(params, [{ params: factors, config: lora }]), [Symbol.dispose]: () => parts.dispose() };
  } catch (error) {
    parts.dispose();
    throw error;
  }
}
