// A CSV file that grows row by row, and of which a process that goes on keeps the first rows.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/csv.h"
#include "train/namespaces.h"

namespace signalbox::train {

class RowFile {
 public:
  // Keeps the header and `n_rows` rows of what stands there and cuts off the rest; a new file begins with the header.
  // Throws Error naming the file: rows that are missing, another header, what the system refuses.
  RowFile(std::filesystem::path file, const std::vector<std::string_view>& header, int64_t n_rows);
  ~RowFile();
  RowFile(const RowFile&) = delete;
  RowFile& operator=(const RowFile&) = delete;

  // The next row's cells go to row(); end() writes it with one write(2).
  CsvWriter& row() { return row_; }
  void end();
  void sync();  // to the disk

 private:
  void write(std::string_view text);
  std::filesystem::path file_;
  CsvWriter row_;
  int descriptor_ = -1;
};

}  // namespace signalbox::train
