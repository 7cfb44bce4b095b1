// What the writer and the reader of a trace must agree on.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "base/namespaces.h"

namespace signalbox::probes {

inline constexpr std::string_view trace_schema = "signalbox.trace/1";
inline constexpr const char* trace_file = "trace.safetensors";
inline constexpr const char* texts_file = "texts.jsonl";         // of a trace: texts and results, a line per sample
inline constexpr const char* rows_spool = "rows.spool";          // of a trace that is not finished
inline constexpr const char* patterns_spool = "patterns.spool";  // likewise
inline constexpr const char* records_file = "records.jsonl";     // of a trace and of a run: the records, a line each
inline constexpr const char* slope_prefix = "grad.";             // of the tensors of gradients
inline constexpr const char* metric_tensor = "metric";           // F64 [S] what they are the gradients of
inline constexpr int64_t max_span_names = 32;
// Tables over positions are made from traces; this bounds what a broken one can ask for.
inline constexpr int32_t max_positions = 1 << 24;

// Metadata that the run gives; schema, n_experts, n_active, samples and spans are the writer's own.
inline constexpr std::array<std::string_view, 8> run_metadata = {
    "model", "model_hash", "tokenizer", "edits", "numerics", "isa", "device", "signalbox_version"};

}  // namespace signalbox::probes
