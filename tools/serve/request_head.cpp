#include "tools/serve/request_head.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "base/text.h"
#include "tools/serve/api_error.h"

namespace signalbox::tools {

namespace {

[[noreturn]] void refuse_head(int status, const std::string& reason) { throw ApiError(status, "request: " + reason); }

// RFC 9110, 5.6.2.
bool is_token_character(char c) {
  return is_ascii_letter(c) || is_ascii_digit(c) ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_character);
}

// Visible ASCII: what a target may hold (RFC 3986), without the characters that need escapes there.
bool is_target(std::string_view text) {
  return text.starts_with('/') && std::all_of(text.begin(), text.end(), [](char c) {
           return c > 0x20 && c < 0x7f && std::string_view("\"<>\\^`{|}").find(c) == std::string_view::npos;
         });
}

bool is_field_character(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
}

void read_line(std::string_view line, RequestHead& head) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last || line.find(' ', first + 1) != last)
    refuse_head(400, "expected METHOD TARGET HTTP/1.1 with one space between them");
  const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
                         version = line.substr(last + 1);
  if (!is_token(method) || method.size() > 32) refuse_head(400, "expected a method");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") refuse_head(400, "expected HTTP/1.1 or HTTP/1.0");
  if (!is_target(target)) refuse_head(400, "expected a target that begins with / and holds no host");
  head.method = method;
  const size_t mark = target.find('?');
  head.path = target.substr(0, mark);
  if (mark != std::string_view::npos) head.query = target.substr(mark + 1);
  head.http11 = head.keep_alive = version == "HTTP/1.1";
}

void read_field(std::string_view line, RequestHead& head) {
  if (line.front() == ' ' || line.front() == '\t') refuse_head(400, "expected a field on one line, found a folded one");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon)))
    refuse_head(400, "expected fields as NAME: VALUE");
  const std::string_view value = trimmed(line.substr(colon + 1));
  if (!std::all_of(value.begin(), value.end(), is_field_character))
    refuse_head(400, "expected fields without control characters");
  head.fields.push_back({ascii_lower(line.substr(0, colon)), std::string(value)});
}

void read_length(RequestHead& head) {
  const size_t n_lengths = head.count("content-length"), n_encodings = head.count("transfer-encoding");
  if (n_lengths > 1) refuse_head(400, "expected one Content-Length, found several");
  if (n_encodings > 0) {
    if (n_lengths > 0) refuse_head(400, "expected Content-Length or Transfer-Encoding, found both");
    if (n_encodings > 1 || ascii_lower(*head.find("transfer-encoding")) != "chunked")
      refuse_head(400, "expected no Transfer-Encoding but chunked");
    if (!head.http11) refuse_head(400, "expected no Transfer-Encoding in HTTP/1.0");
    head.chunked = true;
  } else if (n_lengths == 1) {
    const std::string& text = *head.find("content-length");
    const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), is_ascii_digit);
    if (!digits || text.size() > 18) refuse_head(400, "expected a Content-Length in decimal digits");
    std::from_chars(text.data(), text.data() + text.size(), head.content_length);
  }
  if (const std::string* coding = head.find("content-encoding"); coding && ascii_lower(*coding) != "identity")
    refuse_head(415, "expected a body without Content-Encoding, found " + in_quotes(*coding));
  if (head.method == "POST" || head.method == "PUT" || head.method == "PATCH") {
    if (!head.chunked && head.content_length < 0) refuse_head(411, "expected a Content-Length");
  } else if (head.has_body()) {
    refuse_head(400, "expected no body with " + head.method);
  }
}

void read_connection(RequestHead& head) {
  for (const HttpField& field : head.fields) {
    if (field.name != "connection") continue;
    std::string_view rest = field.value;
    while (!rest.empty()) {
      const size_t comma = rest.find(',');
      const std::string option = ascii_lower(trimmed(rest.substr(0, comma)));
      if (option == "close") head.keep_alive = false;
      if (option == "keep-alive" && head.count("connection") == 1 && rest.size() == field.value.size())
        head.keep_alive = true;
      rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    }
  }
  if (const std::string* expect = head.find("expect")) {
    if (head.count("expect") > 1 || ascii_lower(*expect) != "100-continue")
      refuse_head(400, "expected no Expect but 100-continue");
    head.expects_continue = head.http11;
  }
}

}  // namespace

const std::string* RequestHead::find(std::string_view name) const {
  for (const HttpField& field : fields)
    if (field.name == name) return &field.value;
  return nullptr;
}

size_t RequestHead::count(std::string_view name) const {
  return static_cast<size_t>(
      std::count_if(fields.begin(), fields.end(), [&](const HttpField& field) { return field.name == name; }));
}

size_t find_head_end(std::string_view bytes, const HeadLimits& limits) {
  if (bytes.empty()) return std::string_view::npos;
  if (!is_token_character(bytes.front())) refuse_head(400, "expected a method");
  const size_t line_end = bytes.find("\r\n");
  if (std::min(line_end, bytes.size()) > limits.line)
    refuse_head(414, "expected a request line of at most " + std::to_string(limits.line) + " bytes");
  if (line_end == std::string_view::npos) return line_end;
  const size_t end = bytes.find("\r\n\r\n", line_end);
  const size_t stop = end == std::string_view::npos ? bytes.size() : end;
  if (stop - line_end > limits.fields)
    refuse_head(431, "expected header fields of at most " + std::to_string(limits.fields) + " bytes");
  return end == std::string_view::npos ? end : end + 4;
}

RequestHead read_head(std::string_view bytes, const HeadLimits& limits) {
  RequestHead head;
  if (bytes.size() < 4 || find_head_end(bytes, limits) != bytes.size()) refuse_head(400, "expected a whole head");
  bytes.remove_suffix(2);  // of the empty line
  bool first = true;
  while (!bytes.empty()) {
    const size_t end = bytes.find("\r\n");
    const std::string_view line = bytes.substr(0, end);
    if (line.find_first_of("\r\n") != std::string_view::npos) refuse_head(400, "expected lines that end with CR LF");
    if (first)
      read_line(line, head);
    else
      read_field(line, head);
    first = false;
    if (head.fields.size() > limits.n_fields)
      refuse_head(431, "expected at most " + std::to_string(limits.n_fields) + " header fields");
    bytes.remove_prefix(end + 2);
  }
  // A host that is wrong is a matter of access, and comes before all else.
  if (const size_t n_hosts = head.count("host"); n_hosts != 1)
    refuse_head(403, n_hosts == 0 ? "expected a Host, found none" : "expected one Host, found several");
  read_connection(head);
  read_length(head);
  return head;
}

}  // namespace signalbox::tools
