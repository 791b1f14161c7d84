/** Text from ids of which some are UTF-8 bytes and the rest stand for something else: what the byte tokenizers share. */

/**
 * Joins runs of bytes and decodes each as a whole, so that a character of several bytes survives.
 *
 * @param byteOf the byte of an id; undefined where it is none
 * @param textOf what an id that is no byte stands for
 */
export function decodeRuns(
  ids: ArrayLike<number>,
  byteOf: (id: number) => number | undefined,
  textOf: (id: number) => string,
): string {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let text = "";
  let run: number[] = [];
  const flush = (): void => {
    if (run.length > 0) text += decoder.decode(Uint8Array.from(run));
    run = [];
  };
  for (let i = 0; i < ids.length; i++) {
    const byte = byteOf(ids[i]);
    if (byte !== undefined) {
      run.push(byte);
      continue;
    }
    flush();
    text += textOf(ids[i]);
  }
  flush();
  return text;
}

/** An index that does not stand inside a surrogate pair: the whole text, less a first half at its end. */
export function endOfCodePoint(text: string): number {
  const last = text.charCodeAt(text.length - 1);
  return last >= 0xd800 && last <= 0xdbff ? text.length - 1 : text.length;
}
