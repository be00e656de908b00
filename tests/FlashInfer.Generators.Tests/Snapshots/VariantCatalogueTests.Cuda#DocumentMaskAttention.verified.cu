namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<int> documents;
    int max_tokens;
  };

  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
    return document_of(at.sequence, at.qo_position, a) == document_of(at.sequence, at.kv_position, a);
  }

  static __device__ __forceinline__ int document_of(int sequence, int position, const Arguments& a) {
    return a.documents[csharp::add(csharp::multiply(sequence, a.max_tokens), position)];
  }
};
