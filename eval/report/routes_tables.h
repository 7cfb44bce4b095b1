// Tables of an analysis directory as a page holds them: chosen columns, numbers rounded, the strongest rows where there
// are too many.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/csv.h"
#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

struct PackedTable {
  // {rows, of (of the file), columns: {name: [...]}}. Numbers have five figures, null where undefined. A column of
  // texts is {levels: [distinct], codes: [...]}.
  json::Value block;
  int64_t rows = 0, of = 0;
};

struct TableChoice {
  std::vector<std::string> columns;  // those that the file has are taken
  std::vector<std::string> texts;    // which of them are texts
  std::string order;                 // numbers whose largest absolute values stay; empty: the first rows
  size_t bytes = 300 * 1000;         // of the block as JSON, at most
};

// Rows keep their order. The block stays below choice.bytes by leaving out rows that are last by choice.order.
PackedTable pack_table(const CsvTable& table, const TableChoice& choice);

// The table of DIR/FILE; nothing where the file is absent or has no rows.
std::optional<CsvTable> read_table(const std::filesystem::path& dir, const std::string& file);

// The place of a column, or nothing.
std::optional<size_t> find_column(const CsvTable& table, std::string_view name);

// usage.csv as a matrix a domain: {layers [L], experts: E, domains: [{name ("": all records), tokens, share: [L x E,
// null where the file has no row]}], left_out: domains beyond the room}.
json::Value pack_usage(const CsvTable& usage, size_t bytes = 400 * 1000);

}  // namespace signalbox::eval
