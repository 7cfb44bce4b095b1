// Input records: any bytes are refused with an Error or read.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "eval/data/records.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  using namespace signalbox::tools;
  using namespace signalbox::eval;
  try {
    const Record record = parse_record(json::parse({reinterpret_cast<const char*>(data), size}, "record"), "record");
    if (record.kind == Record::Kind::tokens) {
      EncodeSetup setup;
      setup.n_vocab = 1000;
      encode_record(record, setup, span_names({record}));
    }
  } catch (const Error&) {
  }
  return 0;
}
