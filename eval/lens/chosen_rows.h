// The rows of a step that belong to chosen tokens, and how long a step may be that keeps something of each.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/chosen_tokens.h"
#include "probes/sink.h"

namespace signalbox::eval {

struct ChosenRow {
  int64_t record = 0, position = 0, batch_row = 0;
};

// Of jobs whose index is the record's, and whose rows begin at position 0.
std::vector<ChosenRow> chosen_rows(const StepRows& step, const ChosenTokens& chosen);

// out [rows, width] = columns [first, first + width) of the rows of data, whose rows have `stride` values.
void gather_rows(const std::vector<ChosenRow>& rows, const float* data, int64_t stride, int64_t first, size_t width,
                 std::vector<float>& out);

// Given tokens of a step, at most `chunk`, where each takes so many bytes until it is over: a quarter of a gigabyte, or
// one token.
int64_t chunk_that_keeps(size_t token_bytes, int64_t chunk);

}  // namespace signalbox::eval
