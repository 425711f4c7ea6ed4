// What the C API of llama.cpp lacks: exceptions turned into error codes, and facts about memory.
//
// Nothing here may throw: an exception that reaches Rust aborts the process.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "ggml-backend.h"
#include "llama.h"

// Private to llama.cpp (src/llama-ext.h), exported by the library: bytes by buffer type.
struct llama_memory_breakdown_data {
    size_t model   = 0;
    size_t context = 0;
    size_t compute = 0;

    size_t total() const;
};

using llama_memory_breakdown = std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>;

llama_memory_breakdown llama_get_memory_breakdown(const struct llama_context * ctx);

// Private, too (src/llama-model.h): all weights by name.
const std::vector<std::pair<std::string, ggml_tensor *>> & llama_internal_get_tensor_map(const llama_model * model);

namespace {

constexpr int32_t EXCEPTION = -1000;

void keep(char * message, size_t size, const char * what) {
    if (message != nullptr && size > 0) {
        std::strncpy(message, what, size - 1);
        message[size - 1] = '\0';
    }
}

// Runs `work`; an exception becomes its text and `failed`.
template <typename Work, typename Result>
Result guarded(Work work, Result failed, char * message, size_t size) {
    try {
        return work();
    } catch (const std::exception & error) {
        keep(message, size, error.what());
    } catch (...) {
        keep(message, size, "unknown C++ exception");
    }
    return failed;
}

} // namespace

extern "C" {

llama_model * hearth_model_load(const char * path, llama_model_params params, char * message, size_t size) {
    return guarded([&] { return llama_model_load_from_file(path, params); },
                   static_cast<llama_model *>(nullptr), message, size);
}

llama_context * hearth_context_new(llama_model * model, llama_context_params params, char * message, size_t size) {
    return guarded([&] { return llama_init_from_model(model, params); },
                   static_cast<llama_context *>(nullptr), message, size);
}

int32_t hearth_decode(llama_context * ctx, llama_batch batch, char * message, size_t size) {
    return guarded([&] { return llama_decode(ctx, batch); }, EXCEPTION, message, size);
}

int32_t hearth_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,
                        int32_t n_tokens_max, bool parse_special, char * message, size_t size) {
    return guarded(
        [&] { return llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, false, parse_special); },
        INT32_MIN, message, size);
}

int32_t hearth_sampler_apply(llama_sampler * sampler, llama_token_data_array * candidates, char * message,
                             size_t size) {
    return guarded(
        [&] {
            llama_sampler_apply(sampler, candidates);
            return int32_t(0);
        },
        EXCEPTION, message, size);
}

// Calls `each(name, place, model, context, compute, data)` for every kind of buffer; bytes. Place 0: memory of the
// process; 1: a GPU's that is the board's own memory; 2: a GPU's own.
int32_t hearth_memory(const llama_context * ctx,
                      void (*each)(const char *, int32_t, size_t, size_t, size_t, void *), void * data,
                      char * message, size_t size) {
    return guarded(
        [&] {
            for (const auto & [type, bytes] : llama_get_memory_breakdown(ctx)) {
                int32_t place = 0;
                ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
                if (device != nullptr && !ggml_backend_buft_is_host(type)) {
                    const auto kind = ggml_backend_dev_type(device);
                    place = kind == GGML_BACKEND_DEVICE_TYPE_IGPU  ? 1
                            : kind == GGML_BACKEND_DEVICE_TYPE_GPU ? 2
                                                                   : 0;
                }
                each(ggml_backend_buft_name(type), place, bytes.model, bytes.context, bytes.compute, data);
            }
            return int32_t(0);
        },
        EXCEPTION, message, size);
}

// Bytes of all that is in the context's cache, copied; 0 where it cannot be.
size_t hearth_state_size(llama_context * ctx, char * message, size_t size) {
    return guarded([&] { return llama_state_get_size(ctx); }, size_t(0), message, size);
}

// Bytes written.
size_t hearth_state_get(llama_context * ctx, uint8_t * to, size_t length, char * message, size_t size) {
    return guarded([&] { return llama_state_get_data(ctx, to, length); }, size_t(0), message, size);
}

// Bytes read.
size_t hearth_state_set(llama_context * ctx, const uint8_t * from, size_t length, char * message, size_t size) {
    return guarded([&] { return llama_state_set_data(ctx, from, length); }, size_t(0), message, size);
}

// Bytes of the largest weight that a load reads into a buffer of its own before it is arranged in its place.
size_t hearth_largest_staged(const llama_model * model, char * message, size_t size) {
    return guarded(
        [&] {
            size_t largest = 0;
            for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
                if (tensor->buffer != nullptr && !ggml_backend_buffer_is_host(tensor->buffer)) {
                    largest = std::max(largest, ggml_nbytes(tensor));
                }
            }
            return largest;
        },
        size_t(0), message, size);
}

// Gives memory that was freed back to the system.
void hearth_trim() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

}
