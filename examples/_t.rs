#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]
use burn::tensor::*; use std::time::Instant; use burn::optim::GradientsParams; use burn::module::Module;
use calumma::train::objective::*; use calumma::data::pack::PackedBatch; use calumma::model::*;
#[global_allocator] static G: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main(){
  calumma::allocator::tune();
  let d=Device::flex(); let ad=d.clone().autodiff();
  let a: Vec<String>=std::env::args().collect();
  if a[1]=="vq" {
    let mult: Vec<usize> = a[2].split(',').map(|x|x.parse().unwrap()).collect();
    let c=vq_tokenizer::VqConfig{base_channels:32,channel_multiplier:mult,num_res_blocks:1,attn_resolutions:Some(vec![]),resolution:64,latent_channels:64,embed_dim:32,num_embeddings:1024,..serde_json::from_str("{}").unwrap()};
    let m=c.init(&ad); println!("params {}",m.num_params());
    let o=vq_tokenizer::train::VqObjective::default();
    for b in [8usize,16] { for _ in 0..3 {
      let x=Tensor::<4>::random([b,3,64,64],Distribution::Uniform(-1.,1.),&ad);
      let t=Instant::now(); let l=o.loss(&m,x); let _=l.total.clone().into_scalar::<f32>(); let t1=t.elapsed(); let g=GradientsParams::from_grads(l.total.backward(),&m); let t2=t.elapsed();
      println!("b{b} fwd {:?} all {:?} per image {:.1} ms {}",t1,t2,t2.as_secs_f64()*1e3/b as f64,g.len());
    }}
  } else {
    let (h,l,heads,kv,f):(usize,usize,usize,usize,usize)=(a[2].parse().unwrap(),a[3].parse().unwrap(),a[4].parse().unwrap(),a[5].parse().unwrap(),a[6].parse().unwrap());
    let c=ModelConfig{vocab_size:2048,hidden_size:h,intermediate_size:f,num_hidden_layers:l,num_attention_heads:heads,num_key_value_heads:kv,max_position_embeddings:512,..Default::default()};
    let mut m=c.init(&ad).unwrap(); println!("params {}",m.num_params());
    let (rows,seq)=(16usize,256usize);
    let n=rows*seq; let packed=PackedBatch{ids:(0..n).map(|i|(i%2000) as u32).collect(),document_ids:(0..n).map(|i|((i%seq)/100+1) as u32).collect(),positions:(0..n).map(|i|((i%seq)%100) as u32).collect(),loss_mask:(0..n).map(|i|i%seq>0 && (i%seq)%100!=0).collect(),rows,seq_len:seq};
    let batch=NextTokenBatch{is_image:vec![true;n],packed};
    let o=NextToken{config:Default::default()};
    let mut opt=calumma::train::Optimizer::new(Default::default());
    for _ in 0..4 { let t=Instant::now(); let ls=o.loss(&m,&batch); let t1=t.elapsed(); let g=GradientsParams::from_grads(ls.surrogate.backward(),&m); let t2=t.elapsed(); let (m2,norm)=opt.step(m,g,1e-3).unwrap(); m=m2; let t3=t.elapsed();
      println!("loss {:.4} norm {norm:.3} fwd {:?} bwd {:?} opt {:?} tok/s {:.0}",ls.total,t1,t2-t1,t3-t2,n as f64/t3.as_secs_f64()); }
  }
}
