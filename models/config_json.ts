/**
 * Values of a Hugging Face `config.json` by key, checked, and the keys that no model's results depend on. It refuses to
 * know which others a model has.
 */

/** A parsed `config.json`. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/**
 * Keys that cannot change the results of a forward pass at any value, in files of any model and age: names of things,
 * what is given out and kept, settings of generation, and labels, which `readLabels` reads.
 */
const IGNORED: ReadonlySet<string> = new Set(
  (`architectures model_type transformers_version torch_dtype dtype _name_or_path name_or_path _commit_hash auto_map ` +
    `_attn_implementation _attn_implementation_autoset gradient_checkpointing keys_to_ignore_at_inference ` +
    `chunk_size_feed_forward output_attentions output_hidden_states output_scores output_past return_dict use_cache ` +
    `torchscript tf_legacy_loss use_bfloat16 xla_device tokenizer_class prefix finetuning_task task_specific_params ` +
    `_num_labels num_labels id2label label2id unk_token_id sep_token_id mask_token_id eos_token_ids ` +
    `decoder_start_token_id forced_bos_token_id forced_eos_token_id tie_encoder_decoder cross_attention_hidden_size ` +
    `max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k ` +
    `top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size ` +
    `bad_words_ids num_return_sequences return_dict_in_generate remove_invalid_values ` +
    `exponential_decay_length_penalty suppress_tokens begin_suppress_tokens`)
    .split(" "),
);

/** Whether a key cannot change results. No heads that are pruned are a key that old files have. */
export function isIgnored(json: ConfigJson, key: string): boolean {
  return IGNORED.has(key) || (key === "pruned_heads" && JSON.stringify(json[key]) === "{}");
}

/** A size. @throws SyntaxError for anything but a whole number from `from` */
export function wholeNumber(json: ConfigJson, key: string, from = 1): number {
  const value = json[key];
  if (!Number.isInteger(value) || (value as number) < from) throw wrong(json, key, `a whole number from ${from}`);
  return value as number;
}

/** A number in [0, below). @throws SyntaxError for anything else */
export function numberBelow(json: ConfigJson, key: string, below: number): number {
  const value = json[key];
  const isInside = typeof value === "number" && value >= 0 && value < below;
  if (!isInside) throw wrong(json, key, below === Infinity ? "a number from 0" : `a number in [0, ${below})`);
  return value;
}

/** What a key must be, and what it is. */
export function wrong(json: ConfigJson, key: string, what: string): SyntaxError {
  return new SyntaxError(`Cannot load config.json: ${key} must be ${what}, got ${JSON.stringify(json[key])}`);
}
