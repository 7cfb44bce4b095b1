// What quantised weights change: the original and the quantised model on the same records.
#pragma once
#include <optional>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/compress/study.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

struct QuantizationQuality {
  QualityRow original, quantized;               // plans "original" and the format
  std::optional<MeanEstimate> route_agreement;  // RouteAgreement; none: no routers
};

// quality.csv: the columns of compress, and route_agreement with its interval (1 for the original).
std::string quantization_csv(const QuantizationQuality& quality);
json::Value quantization_json(const QuantizationQuality& quality);
// The same for a terminal of `width` columns (0: any).
std::string quantization_table(const QuantizationQuality& quality, int width);

}  // namespace signalbox::eval
