/**
 * `eval --group`: what fine-tuned models have learned of a shift, by groups, beside the model before and the one that was
 * fine-tuned as a whole. Three models are in memory at a time, so that any number can be compared.
 */
import { NATS_A_BIT, SMALLEST_SHIFT } from "../data/mod.ts";
import { parseVerb } from "./arguments.ts";
import { openDevice } from "./device.ts";
import { writeFileDurably } from "./durable.ts";
import { folderOf, join } from "./files.ts";
import { formatNumber, type Output } from "./log.ts";
import { measureModel } from "./shift_measures.ts";
import { openModel, openSubject, placeModel } from "./shift_models.ts";
import { BASE, parseCandidates, REFERENCE, type ShiftOptions, shiftVerb } from "./shift_options.ts";
import { type Readings, readModel } from "./shift_readings.ts";
import { shiftReport } from "./shift_report.ts";
import {
  aUnit,
  type LensValue,
  type ModelResult,
  resultCsv,
  resultJson,
  resultLines,
  type ShiftResult,
  smallGroups,
  unmovedGroups,
} from "./shift_result.ts";
import {
  comparedMaps,
  energyWithin,
  explain,
  type MapShift,
  MOST_DECOMPOSED,
  referenceShift,
} from "./shift_spectral.ts";
import type { Probes, ShiftSubject } from "./shift_subject.ts";

/** Runs `eval` of models by groups. */
export async function evaluateShift(argv: readonly string[], output: Output): Promise<void> {
  const { options: { candidate, ...rest } } = parseVerb(shiftVerb, argv);
  const options: ShiftOptions = { ...rest, candidates: parseCandidates(candidate) };
  const result = await compareModels(options, output);
  const { out, csv, json } = options;
  if (csv !== undefined) await writeInto(csv, resultCsv(result));
  if (out !== undefined) {
    await Deno.mkdir(out, { recursive: true });
    await writeFileDurably(join(out, "shift.json"), resultJson(result, 1) + "\n");
    await writeFileDurably(join(out, "shift.csv"), resultCsv(result));
    await writeFileDurably(join(out, "report.html"), shiftReport(result));
    output.err(`wrote ${join(out, "report.html")}, shift.json and shift.csv`);
  }
  for (const line of json ? [resultJson(result)] : resultLines(result)) output.out(line);
}

async function writeInto(file: string, text: string): Promise<void> {
  await Deno.mkdir(folderOf(file), { recursive: true });
  await writeFileDurably(file, text);
}

/** Compares models. Nothing is written. */
export async function compareModels(options: ShiftOptions, output: Pick<Output, "err">): Promise<ShiftResult> {
  const subject = await openSubject(options, output);
  const [base, reference] = [[BASE, options.base], [REFERENCE, options.reference]] as const;
  const places = [];
  for (const [name, folder] of [base, reference, ...options.candidates.map((one) => [one.name, one.folder] as const)]) {
    places.push(await placeModel({ name, folder }, options.base));
  }
  using backend = await openDevice(options, output);
  using baseParams = await subject.load(backend, places[0].weights, output);
  using referenceModel = await openModel(backend, places[1], subject, output);
  const views = { base: await subject.inOrder(baseParams, places[0], output), reference: referenceModel.view };
  const maps = comparedMaps(baseParams, subject);
  output.err(`decomposing ${formatNumber(maps.length)} maps of ${REFERENCE}`);
  const shifts = await referenceShift(maps, views.reference, views.base);
  const { probes } = subject;
  const before = await readModel(BASE, subject, { ...views, model: views.base });
  const after = await readModel(REFERENCE, subject, { ...views, model: views.reference });
  const measure = (place: Place, model: Readings) => {
    if (options.bootstrap > 0) {
      output.err(`measuring ${place.name} on ${formatNumber(options.bootstrap)} bootstrap samples`);
    }
    return modelResult(place, probes, { model, base: before, reference: after }, options);
  };
  const models = [measure(places[0], before), measure(places[1], after)];
  for (const place of places.slice(2)) {
    using candidate = await openModel(backend, place, subject, output);
    const model = await readModel(place.name, subject, { ...views, model: candidate.view });
    const found = measure(place, model);
    output.err(`decomposing ${formatNumber(maps.length)} maps of ${place.name}`);
    models.push({ ...found, explanation: await explain(shifts, candidate.view, { ...views, subject }) });
    output.err(`compared ${place.name}`);
  }
  const result = { ...factsOf(options, subject), ...spectrumOf(shifts), models };
  for (const note of notesOf(result, shifts)) output.err(`note: ${note}`);
  return result;
}

type Place = Pick<ModelResult, "name" | "folder" | "size">;

function modelResult(
  { name, folder, size }: Place,
  probes: Probes,
  compared: { readonly model: Readings; readonly base: Readings; readonly reference: Readings },
  { bootstrap }: ShiftOptions,
): ModelResult {
  const measures = measureModel(probes, compared, { samples: bootstrap });
  return { name, folder, size, measures, lens: lensOf(probes, compared.model) };
}

/** Means after each layer, of all probes and of each group. */
function lensOf({ groups, groupNames }: Probes, { layers, places }: Readings): LensValue[] {
  return [null, ...groupNames].flatMap((group) => {
    const isCounted = (item: number) => group === null || groupNames[groups[item]] === group;
    const sum = (values: Float64Array) => values.reduce((total, value, i) => isCounted(i) ? total + value : total, 0);
    const bits = (values: Float64Array) => sum(values) / sum(places) / NATS_A_BIT;
    return layers.map(({ fromBase, toReference }, i) => ({
      ...{ layer: i + 1, group, bitsFromBase: bits(fromBase), bitsToReference: bits(toReference) },
    }));
  });
}

function factsOf({ data, group, bootstrap }: ShiftOptions, { task, unit, probes }: ShiftSubject) {
  const { groupNames, groups, choices, positive } = probes;
  return {
    ...{ task, data: data[0], column: group, unit, bootstrap },
    positive: choices.length > 0 ? choices[positive] : null,
    groups: groupNames.map((name, number) => ({ name, n: groups.filter((one) => one === number).length })),
  };
}

function spectrumOf(shifts: readonly MapShift[]): Pick<ShiftResult, "energy" | "maps"> {
  const sides = shifts.flatMap(({ directions }) => directions ? [directions.values.length] : []);
  const ranks = [];
  for (let rank = 1; rank < 2 * Math.max(0, ...sides); rank *= 2) ranks.push(Math.min(rank, Math.max(...sides)));
  return {
    energy: ranks.flatMap((rank) => {
      const within = energyWithin(shifts, rank);
      return within === undefined ? [] : [{ rank, within }];
    }),
    maps: shifts.map(({ module, energy, directions }) => ({
      ...{ module, energy, singularValues: directions ? Array.from(directions.values) : null },
    })),
  };
}

function notesOf(result: ShiftResult, shifts: readonly MapShift[]): string[] {
  const small = smallGroups(result).map(({ name, n }) => `group ${name} has ${n} probes: no gap counts it`);
  const still = unmovedGroups(result).map((group) =>
    `the reference says ${group === null ? "" : `of group ${group} `}what the base says, within ` +
    `${SMALLEST_SHIFT} nats ${aUnit(result)}: there is no shift to capture`
  );
  const large = shifts.filter(({ directions }) => !directions).length;
  const left = `${large} maps with sides above ${MOST_DECOMPOSED} are not decomposed: their spectra are left out`;
  return [...small, ...still, ...large > 0 ? [left] : []];
}
