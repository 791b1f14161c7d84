/** What is trained, as it is, in a file of a checkpoint: for methods whose weights have no other form to be read back from. */
import type { Params } from "../core/mod.ts";
import { checkWeights, type FolderWriter, openSafetensors, paramEntries, writeSafetensors } from "../models/mod.ts";
import type { FileFolder } from "./files.ts";

/** Writes every tensor of `trained`. */
export async function saveTrained(writer: FolderWriter, file: string, trained: Params): Promise<void> {
  await using sink = await writer.create(file);
  await writeSafetensors(sink, paramEntries(trained));
}

/** Puts back f32 tensors that `saveTrained` wrote. @throws RangeError or TypeError for those of something else */
export async function restoreTrained(folder: FileFolder, file: string, trained: Params): Promise<void> {
  await using source = await folder.open(file);
  const { tensors, bytes } = await openSafetensors(source);
  const listed = {
    ...{ name: `${folder.name}/${file}`, names: [...tensors.keys()], has: (name: string) => tensors.has(name) },
    info: (name: string) => tensors.get(name)!,
  };
  checkWeights(listed, new Map([...trained.entries()].map(([name, { shape }]) => [name, { shape, what: "trained" }])));
  for (const [name, tensor] of trained.entries()) {
    tensor.write(new Float32Array((await bytes(name)).slice().buffer));
  }
}
