#include "base/text_table.h"

#include <algorithm>

#include "base/display_width.h"

namespace signalbox {

namespace {

constexpr size_t gap = 2;
constexpr size_t least_key = 16;  // columns that a key is cut to at least

}  // namespace

void TextTable::add(std::vector<std::string> cells, bool begins_group) {
  rows_.push_back({std::move(cells), begins_group && !rows_.empty()});
}

std::string TextTable::text(int width) const {
  std::vector<Row> rows = rows_;
  const size_t n = columns_.size(), most = width > 0 ? static_cast<size_t>(width) : SIZE_MAX;
  std::vector<size_t> widths(n);
  const auto measure = [&](size_t c) {
    widths[c] = display_width(columns_[c].heading);
    for (const Row& row : rows) widths[c] = std::max(widths[c], display_width(row.cells[c]));
  };
  for (size_t c = 0; c < n; ++c) measure(c);
  const auto total = [&](const std::vector<size_t>& some) {
    size_t sum = 0;
    for (const size_t c : some) sum += widths[c];
    return some.empty() ? 0 : sum + gap * (some.size() - 1);
  };
  std::vector<size_t> all, keys, others;
  for (size_t c = 0; c < n; ++c) {
    all.push_back(c);
    (columns_[c].key ? keys : others).push_back(c);
  }

  // The widest key first.
  while (total(all) > most && !keys.empty()) {
    const size_t c =
        *std::max_element(keys.begin(), keys.end(), [&](size_t a, size_t b) { return widths[a] < widths[b]; });
    const size_t over = total(all) - most, before = widths[c];
    if (before <= least_key) break;
    std::vector<std::string> names;
    for (const Row& row : rows_) names.push_back(row.cells[c]);
    // Cut more only where the table is split anyway.
    const size_t target = std::max(least_key, before > over ? before - over : 0);
    const std::vector<std::string> cut = cut_names(names, target);
    for (size_t r = 0; r < rows.size(); ++r) rows[r].cells[c] = cut[r];
    measure(c);
    if (widths[c] >= before) break;
  }

  // Blocks of columns.
  std::vector<std::vector<size_t>> blocks;
  if (total(all) <= most || keys.empty()) {
    blocks.push_back(all);
  } else {
    for (const size_t c : others) {
      const bool fits = !blocks.empty() && total(blocks.back()) + gap + widths[c] <= most;
      if (!fits) blocks.push_back(keys);
      blocks.back().push_back(c);
    }
    if (blocks.empty()) blocks.push_back(keys);
    for (auto& block : blocks) std::sort(block.begin(), block.end());
  }

  std::string out;
  for (const std::vector<size_t>& block : blocks) {
    const auto line = [&](const auto& cell) {
      std::string text;
      for (const size_t c : block) {
        if (c != block.front()) text.append(gap, ' ');
        text += padded(cell(c), widths[c], columns_[c].right);
      }
      text.erase(text.find_last_not_of(' ') + 1);
      return text + "\n";
    };
    if (!out.empty()) out += "\n";
    out += line([&](size_t c) { return columns_[c].heading; });
    for (const Row& row : rows) {
      if (row.begins_group) out += "\n";
      out += line([&](size_t c) { return row.cells[c]; });
    }
  }
  return out;
}

}  // namespace signalbox
