// No file is named over HTTP.
#include <algorithm>

#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/generation_plan.h"

namespace signalbox::tools {

void refuse_files(const json::Ref& edits) {
  const auto refuse = [](const json::Ref& value) {
    value.fail("expected no file: over HTTP edits name none (write the values or experts out)");
  };
  for (const json::Ref& edit : edits.items()) {
    edit.expect_object();
    for (const char* key : {"trace", "from", "rates", "vector"})
      if (const auto value = edit.find(key)) refuse(*value);
    if (const auto value = edit.find("value")) {
      if (value->value().type() == json::Type::object) refuse(*value);
      if (value->value().is_string() && value->string() != "zero") refuse(*value);
    }
    if (const auto experts = edit.find("experts"))
      if (experts->value().type() == json::Type::object && experts->value().find("from")) refuse(experts->at("from"));
  }
}

}  // namespace signalbox::tools
