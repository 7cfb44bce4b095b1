#include "eval/lens/chosen_rows.h"

#include <algorithm>

namespace signalbox::eval {

std::vector<ChosenRow> chosen_rows(const StepRows& step, const ChosenTokens& chosen) {
  std::vector<ChosenRow> rows;
  for (const RowRange& range : step.ranges)
    for (int64_t i = 0; i < range.n_rows; ++i)
      if (chosen.has(range.sample, range.first_row + i))
        rows.push_back({range.sample, range.first_row + i, range.batch_row + i});
  return rows;
}

void gather_rows(const std::vector<ChosenRow>& rows, const float* data, int64_t stride, int64_t first, size_t width,
                 std::vector<float>& out) {
  out.resize(rows.size() * width);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(data + rows[i].batch_row * stride + first, width, out.data() + i * width);
}

int64_t chunk_that_keeps(size_t token_bytes, int64_t chunk) {
  constexpr size_t most_bytes = size_t{256} << 20;
  return std::clamp<int64_t>(static_cast<int64_t>(most_bytes / std::max<size_t>(1, token_bytes)), 1, chunk);
}

}  // namespace signalbox::eval
