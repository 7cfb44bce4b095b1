#include "eval/routing/npmi.h"

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/files.h"
#include "base/no_number.h"

namespace signalbox::eval {

namespace {

// [rows] 1 at marker tokens.
std::vector<uint8_t> marked_tokens(const TraceReader& trace, TraceReader::Rows rows, const Marker& marker) {
  if (!marker.token) return counted_tokens(trace, rows, {marker.span, Phase::all});
  const std::vector<int32_t> tokens = trace.tokens(rows);
  std::vector<uint8_t> marked(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) marked[i] = tokens[i] == *marker.token;
  return marked;
}

}  // namespace

double MarkerAssociation::value() const {
  if (selected == 0 || markers == 0 || at_markers == tokens) return no_number;
  if (at_markers == 0) return -1;
  const double k = static_cast<double>(at_markers), all = static_cast<double>(tokens);
  return (std::log2(k / static_cast<double>(markers)) + std::log2(all / static_cast<double>(selected))) /
         std::log2(all / k);
}

std::vector<MarkerAssociation> marker_associations(const TraceSet& set, const Marker& marker,
                                                   const TokenFilter& filter) {
  if (marker.span.empty() == !marker.token.has_value())
    throw Error("marker",
                "expected either a span or a token id, found " + std::string(marker.token ? "both" : "neither"));
  const int64_t n_layers = static_cast<int64_t>(set.layers().size()), n_experts = set.n_experts();
  std::vector<int64_t> selected(set.n_rows(), 0), at_markers(set.n_rows(), 0);
  int64_t n_tokens = 0, n_markers = 0;
  const auto take = [&](const TraceSample& sample, TraceReader::Rows rows, const std::vector<uint8_t>& counted) {
    const TraceReader& trace = set.trace(sample.trace);
    const int64_t n_slots = trace.n_slots();
    const std::vector<uint8_t> marked = marked_tokens(trace, rows, marker);
    const std::vector<int32_t> ids = trace.ids(rows);
    for (int64_t t = 0; t < rows.size(); ++t) {
      if (!counted[static_cast<size_t>(t)]) continue;
      const bool here = marked[static_cast<size_t>(t)];
      ++n_tokens;
      n_markers += here;
      for (int64_t slot = t * n_layers * n_slots; slot < (t + 1) * n_layers * n_slots; ++slot) {
        const int32_t expert = ids[static_cast<size_t>(slot)];
        if (expert < 0) continue;
        const size_t row = static_cast<size_t>((slot / n_slots - t * n_layers) * n_experts + expert);
        ++selected[row];
        at_markers[row] += here;
      }
    }
  };
  for_each_block(set, filter, take);
  if (n_markers == 0)
    throw Error(set.directory(0).string(),
                "expected marker tokens (" +
                    (marker.token ? "id " + std::to_string(*marker.token) : "span \"" + marker.span + "\"") +
                    ") among the " + std::to_string(n_tokens) + " tokens that count, found none");
  std::vector<MarkerAssociation> out;
  for (size_t i = 0; i < set.n_rows(); ++i)
    out.push_back({set.layers()[i / static_cast<size_t>(n_experts)],
                   static_cast<int32_t>(i % static_cast<size_t>(n_experts)), at_markers[i], selected[i], n_markers,
                   n_tokens});
  return out;
}

void write_npmi_csv(const std::filesystem::path& file, const std::vector<MarkerAssociation>& rows) {
  CsvWriter csv({"layer", "expert", "k_n", "K_n", "M", "T", "npmi"});
  for (const MarkerAssociation& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.at_markers).cell(row.selected).cell(row.markers);
    csv.cell(row.tokens).cell(row.value());
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
