// CSV tables, as records and as analysis files.
#include "base/csv.h"
#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  try {
    const CsvTable table = CsvTable::parse(std::string_view(reinterpret_cast<const char*>(data), size), "data.csv");
    for (size_t row = 0; row < table.n_rows(); ++row) (void)table.text(row, 0);
  } catch (const Error&) {
  }
  return 0;
}
