// Any text as the body of a request: fields within their ranges, or a refusal with status 400; and any text as an
// event, which stays one line.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tools/serve/api_error.h"
#include "tools/serve/request_fields.h"
#include "tools/serve/sse.h"

using namespace signalbox;
using namespace signalbox::tools;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string frame = event_frame(text);
  if (!frame.starts_with("data: ") || !frame.ends_with("\n\n")) __builtin_trap();
  if (frame.find_first_of("\r\n") != frame.size() - 2) __builtin_trap();
  try {
    const json::Value body = parse_body(text);
    for (const bool refuse_unknown : {true, false})
      for (const bool chat : {true, false}) {
        try {
          const FieldLimits limits{100, refuse_unknown};
          const GenerationFields fields = chat ? read_chat_fields(body, limits) : read_completion_fields(body, limits);
          const bool good = fields.n >= 1 && fields.n <= 128 && fields.temperature >= 0 && fields.temperature <= 2 &&
                            fields.top_p > 0 && fields.top_p <= 1 && fields.top_logprobs >= 0 &&
                            fields.top_logprobs <= 20 && fields.stop.size() <= 64;
          if (!good) __builtin_trap();
          for (const PromptInput& prompt : fields.prompts)
            if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt))
              for (const int32_t id : *ids)
                if (id < 0 || id >= 100) __builtin_trap();
        } catch (const ApiError& error) {
          if (error.status != 400) __builtin_trap();
        }
      }
  } catch (const ApiError& error) {
    if (error.status != 400) __builtin_trap();
  }
  return 0;
}
