// What train distill and train router print of their quality.csv.
#pragma once
#include <filesystem>

#include "base/csv.h"
#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::tools {

// As a table, that of quality_other.csv below it, and where the model lies; or, for --json, as one line.
void show_quality(const std::filesystem::path& dir, bool json);

// Its rows as JSON; `keep`: with their numbers of experts.
json::Value quality_rows(const CsvTable& csv, bool keep = false);

}  // namespace signalbox::tools
