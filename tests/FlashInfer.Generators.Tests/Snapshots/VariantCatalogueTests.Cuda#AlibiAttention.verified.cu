namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::TransformByLine<Variant> {

  static __device__ __forceinline__ flashinfer::Line line(const flashinfer::LogitsContext& at, const Arguments&) {
    return {slope(at.head), at.qo_position};
  }

  static __device__ __forceinline__ float slope(int head) {
    return exp2f(-8.f * float(csharp::add(head, 1)) / 32.f);
  }
};
