#include "tools/serve/request_reader.h"

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <string>
#include <utility>  // before Asio 1.74, which misses it

#include "tools/serve/api_error.h"

namespace signalbox::tools {

namespace beast_http = boost::beast::http;
using BeastError = boost::beast::error_code;

struct RequestReader::Parser {
  beast_http::request_parser<beast_http::string_body> of;
  std::function<void(std::uint64_t, boost::beast::string_view, BeastError&)> on_chunk;
  size_t n_fields = 0;
  int64_t limit = 0;

  explicit Parser(const HeadLimits& limits) {
    of.header_limit(static_cast<uint32_t>(limits.line + limits.fields + 64));
    of.body_limit(uint64_t{1} << 62);  // take_body() says
    on_chunk = [](std::uint64_t, boost::beast::string_view extensions, BeastError& error) {
      if (!extensions.empty()) error = beast_http::error::bad_chunk_extension;
    };
    of.on_chunk_header(on_chunk);
  }

  size_t put(std::string_view bytes) {
    BeastError error;
    const size_t used = of.put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
    if (error == beast_http::error::body_limit)
      throw ApiError(413, "request: expected a body of at most " + std::to_string(limit) + " bytes");
    if (error && error != beast_http::error::need_more)
      throw ApiError(400, "request: expected HTTP/1.1, found " + error.message());
    return used;
  }
};

RequestReader::RequestReader(HeadLimits limits) : limits_(limits) {}
RequestReader::~RequestReader() = default;

size_t RequestReader::put(std::string_view bytes) {
  switch (stage_) {
    case Stage::head: return put_head(bytes);
    case Stage::body: return put_body(bytes);
    default: return 0;
  }
}

size_t RequestReader::put_head(std::string_view bytes) {
  const size_t end = find_head_end(bytes, limits_);
  if (end == std::string_view::npos) return 0;
  request_.head = read_head(bytes.substr(0, end), limits_);
  parser_ = std::make_unique<Parser>(limits_);
  for (size_t used = 0; used < end && !parser_->of.is_header_done();) {
    const size_t n = parser_->put(bytes.substr(used, end - used));
    if (n == 0) break;
    used += n;
  }
  if (!parser_->of.is_header_done()) throw ApiError(400, "request: expected a whole head");
  for (const auto& field : parser_->of.get()) {
    static_cast<void>(field);
    ++parser_->n_fields;
  }
  stage_ = Stage::head_done;
  return end;
}

void RequestReader::take_body(int64_t limit) {
  parser_->limit = limit;
  if (head().content_length > limit)
    throw ApiError(413, "request: expected a body of at most " + std::to_string(limit) + " bytes, found " +
                            std::to_string(head().content_length));
  parser_->of.body_limit(static_cast<uint64_t>(limit));
  parser_->of.eager(true);
  stage_ = head().has_body() ? Stage::body : Stage::done;
}

size_t RequestReader::put_body(std::string_view bytes) {
  size_t used = 0;
  while (used < bytes.size() && !parser_->of.is_done()) {
    // Beast 1.74 asserts that a last chunk which it has begun to read comes in at least five bytes. No chunked body
    // ends in fewer, so they can wait for more.
    if (head().chunked && bytes.size() - used < 5) break;
    const size_t n = parser_->put(bytes.substr(used));
    if (n == 0) break;
    used += n;
  }
  if (body_bytes() > parser_->limit)
    throw ApiError(413, "request: expected a body of at most " + std::to_string(parser_->limit) + " bytes");
  // What Beast waits for whole, the head of a chunk or the fields behind the last one, is short.
  if (!parser_->of.is_done() && bytes.size() - used > limits_.line)
    throw ApiError(400, "request: expected the head of a chunk");
  if (!parser_->of.is_done()) return used;
  size_t n_fields = 0;
  for (const auto& field : parser_->of.get()) {
    static_cast<void>(field);
    ++n_fields;
  }
  if (n_fields != parser_->n_fields) throw ApiError(400, "request: expected no fields behind the body");
  stage_ = Stage::done;
  return used;
}

int64_t RequestReader::body_bytes() const {
  return parser_ ? static_cast<int64_t>(parser_->of.get().body().size()) : 0;
}

HttpRequest RequestReader::take() {
  if (parser_) request_.body = std::move(parser_->of.get().body());
  parser_.reset();
  stage_ = Stage::head;
  return std::exchange(request_, {});
}

}  // namespace signalbox::tools
